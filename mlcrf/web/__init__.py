"""What every server of ours does alike: listen, wait no longer than it should, end in peace."""

"""The assets in the order usage flows through them, each with its checks beside it."""

"""What two processes must agree on: places in S3, messages, task inputs and outputs, states."""

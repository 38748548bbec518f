"""Methods and optimizers that only the comparison uses, as plugins named package.module:Class."""

"""Fine-tune video diffusion models on people: ranked, scheduled partial training."""

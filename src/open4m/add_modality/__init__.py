"""Teaching a trained model one more modality."""

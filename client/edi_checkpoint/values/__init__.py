"""Values to JSON texts and attachments, and back."""

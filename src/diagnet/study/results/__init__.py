"""What a study leaves behind: rows on disk, and the figures, tables and pictures made of them."""

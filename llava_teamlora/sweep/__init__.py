"""Many runs from one file: trained and evaluated unattended."""

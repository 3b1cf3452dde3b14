"""The assets, one file each: thin actions over ports; they name ports, never adapters."""

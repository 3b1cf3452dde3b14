"""The assets: thin actions over ports; they name ports, never adapters."""

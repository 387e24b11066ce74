"""The doctor's battery: planted faults, and runs that are well."""

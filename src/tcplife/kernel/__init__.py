"""The only package that knows of BPF: loading, attaching, reading."""

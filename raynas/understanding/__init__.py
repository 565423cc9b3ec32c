"""What a finished run tells: topology, bias, convergence, trust in proxies, flatness, rankings."""

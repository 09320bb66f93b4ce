"""The operator's figures: how fast it decides, converges and rests. `python -m e2e.bench` prints them."""

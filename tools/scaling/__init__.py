"""What training in several processes costs: sums measured on this machine, and a model of them on other links."""

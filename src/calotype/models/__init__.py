"""Networks of Calotype's own and adapters; any `nn.Module` by its `_target_` stands equal to them."""

"""How the models of ``demo.mpta`` are made from scene pictures: samples, networks, training, packing, evaluation."""

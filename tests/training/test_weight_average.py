import torch
from torch import nn

from diagnet.training.weight_average import update_average


def test_average_moves_towards_the_weights():
    network = nn.BatchNorm1d(2)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.num_batches_tracked.fill_(7)
    update_average(average, network, 0.75)
    assert average["weight"].tolist() == [1.5, 1.5]
    assert average["num_batches_tracked"] == 7

"""How a trained network scores images."""

import numpy as np
import torch
from jaxtyping import Float32, Int

from diagnet.arrays import Images
from diagnet.network import Network
from diagnet.training.points import read_rows

_IN_ONE_PASS = 128


def embeddings_and_logits(
    network: Network, images: Images, *, rows: Int[np.ndarray, "row"] | None = None, batch_size: int | None = None
) -> tuple[Float32[np.ndarray, "row feature"], Float32[np.ndarray, "row class"]]:
    """H and logits of each image in float32, without dropout, graph or augmentation (reading 21).

    Args:
        network: on any device.
        images: in [0, 1], in memory or mapped.
        rows: which of them; None: all.
        batch_size: images in one pass; None: 128 with their flips, where those are averaged.
    """
    rows = np.arange(len(images)) if rows is None else rows
    batch_size = batch_size or (_IN_ONE_PASS // 4 if network.settings.average_flips else _IN_ONE_PASS)
    device = network.intensity.device
    was_training = network.training
    network.eval()
    embedded, logits = [], []
    with torch.inference_mode():
        for left in range(0, len(rows), batch_size):
            batch = torch.from_numpy(read_rows(images, rows[left : left + batch_size]))[:, None]
            h, scores = network.embed_and_classify(batch.to(device))
            embedded.append(h.cpu().numpy())
            logits.append(scores.cpu().numpy())
    network.train(was_training)
    if not embedded:
        return np.zeros((0, network.embedding_size), np.float32), np.zeros((0, network.settings.n_classes), np.float32)
    return np.concatenate(embedded), np.concatenate(logits)

"""A plain PyTorch loop of someone else's DiT gains the method with one `with` line: python examples/any_loop.py."""

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel

import entprog

torch.manual_seed(0)
model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=6,
                              sample_size=8, norm_num_groups=4, num_embeds_ada_norm=1000)  # fmt: skip
noise = DDPMScheduler()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def draw(n: int) -> entprog.Draw:
    """A noised batch of random pictures with one label."""
    clean, eps, step = torch.randn(n, 4, 8, 8), torch.randn(n, 4, 8, 8), torch.randint(0, 1000, (n,))
    label = torch.zeros(n, dtype=torch.long)
    return entprog.Draw(noise.add_noise(clean, eps, step), step / 1000, eps, {"label": label})


def predict(d: entprog.Draw) -> torch.Tensor:
    """The noise that the model sees in a draw."""
    return model(d.x, timestep=(d.tau * 1000).long(), class_labels=d.condition["label"]).sample


method = entprog.attach(model, optimizer, steps=12, predict=predict, probe=[draw(4)], schedule="linear")

for i in range(12):
    batch = draw(4)
    with method.step(i) as info:  # <- the one line
        loss = (predict(batch) - batch.target).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print(f"step {i:2}  {info.m} of 6 blocks train  loss {loss.item():.4f}")

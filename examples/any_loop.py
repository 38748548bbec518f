"""A plain PyTorch loop over a DiT of diffusers; lines marked with + add the method: python examples/any_loop.py."""

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel

import entprog  # +

torch.manual_seed(0)
model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=6,
                              sample_size=8, norm_num_groups=4, num_embeds_ada_norm=1000)  # fmt: skip
scheduler = DDPMScheduler()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
batches = [(torch.randn(4, 4, 8, 8), torch.zeros(4, dtype=torch.long)) for _ in range(12)]
predict, probe = entprog.make_probe(model, scheduler, batches[0][0], class_labels=batches[0][1])  # +
method = entprog.attach(model, optimizer, steps=12, predict=predict, probe=probe)  # +

for i, (latents, labels) in enumerate(batches):
    noise, t = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
    with method.step(i):  # +
        prediction = model(scheduler.add_noise(latents, noise, t), timestep=t, class_labels=labels).sample
        loss = (prediction - noise).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    trained = sum(block.attn1.to_q.weight.requires_grad for block in model.transformer_blocks)
    print(f"step {i:2}  {trained} of 6 blocks train  loss {loss.item():.4f}")

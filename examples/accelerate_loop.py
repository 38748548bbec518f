"""A loop of accelerate with gradient accumulation; lines marked with + add the method."""

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel

import entprog  # +

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = UNet2DModel(8, 4, 4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
                    down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)  # fmt: skip
scheduler = DDPMScheduler()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
predict, probe = entprog.make_probe(model, scheduler, torch.randn(4, 4, 8, 8))  # +
resnets = ["down_blocks.*.resnets.*", "mid_block.resnets.*", "up_blocks.*.resnets.*"]  # +
method = entprog.attach(model, optimizer, steps=8, predict=predict, probe=probe, blocks=resnets)  # +
loader = torch.utils.data.DataLoader(torch.randn(64, 4, 8, 8), batch_size=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

step = 0
for latents in loader:
    noise, t = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
    with accelerator.accumulate(model), method.step(step):  # + was: with accelerator.accumulate(model):
        loss = (model(scheduler.add_noise(latents, noise, t), t).sample - noise).pow(2).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    if accelerator.sync_gradients:
        step += 1
        print(f"step {step} of 8  loss {loss.item():.4f}")

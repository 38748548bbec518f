"""The shape of diffusers' text-to-video training scripts, with what trains cheapest; + marks what the method adds."""

import torch
from accelerate import Accelerator
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.optimization import get_scheduler

import entprog  # +

torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                              text_dim=16, freq_dim=32, ffn_dim=32, num_layers=6,
                              rope_max_seq_len=32)  # fmt: skip
scheduler = FlowMatchEulerDiscreteScheduler()
data = [{"latents": torch.randn(4, 2, 8, 8), "text": torch.randn(5, 16)} for _ in range(16)]
loader = torch.utils.data.DataLoader(data, batch_size=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
first = next(iter(loader))  # +
predict, probe = entprog.make_probe(model, scheduler, first["latents"], encoder_hidden_states=first["text"])  # +
method = entprog.attach(model, optimizer, steps=8, predict=predict, probe=probe, preset="entprog")  # +
lr_scheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=2)
model, optimizer, loader, lr_scheduler = accelerator.prepare(model, optimizer, loader, lr_scheduler)

for global_step, batch in enumerate(loader):
    noise, sigma = torch.randn_like(batch["latents"]), torch.rand(len(batch["latents"]))
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * batch["latents"] + level * noise
    with accelerator.accumulate(model), method.step(global_step):  # + was: with accelerator.accumulate(model):
        prediction = model(noisy, sigma * 1000, batch["text"]).sample
        loss = torch.nn.functional.mse_loss(prediction, noise - batch["latents"])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    print(f"step {global_step + 1} of 8  loss {loss.item():.4f}")
method.finish()  # +
accelerator.unwrap_model(model).save_pretrained("wan")

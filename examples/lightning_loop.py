"""A LightningModule and its Trainer; lines marked with + add the method."""

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from lightning.pytorch import LightningModule, Trainer, seed_everything

import entprog  # +
from entprog.integrations.lightning import ProgressiveTraining  # +


class Denoiser(LightningModule):
    """A tiny DiT that learns to predict noise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DiTTransformer2DModel(2, 8, 4, num_layers=6, sample_size=8, norm_num_groups=4)
        self.scheduler = DDPMScheduler()

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        noise, t = torch.randn_like(batch["latents"]), torch.randint(0, 1000, (len(batch["latents"]),))
        noisy = self.scheduler.add_noise(batch["latents"], noise, t)
        loss = (self.net(noisy, timestep=t, class_labels=batch["label"])[0] - noise).pow(2).mean()
        print(f"step {self.global_step + 1} of 8  loss {loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


seed_everything(0)
module = Denoiser()
data = [{"latents": torch.randn(4, 8, 8), "label": 0} for _ in range(32)]
predict, probe = entprog.make_probe(module.net, module.scheduler, torch.randn(4, 4, 8, 8),  # +
                                    class_labels=torch.zeros(4, dtype=torch.long))  # fmt: skip  # +
method = ProgressiveTraining(model=lambda module: module.net, predict=predict, probe=probe)  # +
trainer = Trainer(accelerator="cpu", max_steps=8, logger=False, enable_progress_bar=False, enable_checkpointing=False,
                  callbacks=[method])  # fmt: skip  # + was: )
trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))

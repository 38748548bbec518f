"""The Trainer of transformers with a denoiser that returns its loss; lines marked with + add the method."""

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from transformers import Trainer, TrainingArguments

import entprog  # +
from entprog.integrations.transformers import ProgressiveTraining  # +


class Denoiser(torch.nn.Module):
    """A tiny DiT that learns to predict noise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DiTTransformer2DModel(2, 8, 4, num_layers=6, sample_size=8, norm_num_groups=4)
        self.scheduler = DDPMScheduler()

    def forward(self, latents: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
        noisy = self.scheduler.add_noise(latents, noise, t)
        return {"loss": (self.net(noisy, timestep=t, class_labels=label)[0] - noise).pow(2).mean()}


torch.manual_seed(0)
model = Denoiser()
data = [{"latents": torch.randn(4, 8, 8), "label": 0} for _ in range(64)]
arguments = TrainingArguments("trainer", max_steps=8, per_device_train_batch_size=4, gradient_accumulation_steps=2,
                              use_cpu=True, report_to=[], save_strategy="no", logging_steps=1)  # fmt: skip
collate = torch.utils.data.default_collate
predict, probe = entprog.make_probe(model.net, model.scheduler, torch.randn(4, 4, 8, 8),  # +
                                    class_labels=torch.zeros(4, dtype=torch.long))  # fmt: skip  # +
method = ProgressiveTraining(model=lambda model: model.net, predict=predict, probe=probe)  # +
trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate,
                  callbacks=[method])  # fmt: skip  # + was: )
trainer.train()

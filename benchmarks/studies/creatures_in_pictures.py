"""Rendered creatures, who move and whom the base does not know, judged by pictures: the best full fine-tuning and less.

python -m benchmarks.studies.creatures_in_pictures costs|tune|runs|one|table|picture

The shipped base, trained on people, learns four-limbed creatures from single frames with poses: 32 of them, 16 others
held out, and each seed has other creatures. Reference and image are different moments. in_pictures.py says how arms are
trained and judged; 300 steps of full fine-tuning by AdamW are the unit of cost. PCK says little: the estimator of
people finds a body in a fifth to a third of the images, and the others count as misses.

Arms: full fine-tuning by AdamW and by Muon; LoRA of rank 16 in every block by AdamW, by Muon with pose adapters in
the blocks trained in full, and as the preset has it (besides: recomputation,
bf16 storage, resting input side, cached references); by Muon the last third of
the blocks at every noise level ("third"), the same with four steps on each sample ("echo"), and the last third below .6
with all blocks above ("bands"). "high": 60 % of the steps at noise levels above .6, where the others draw 40 %.

Budget, fixed before: 1.6 core-hours, one thread a run.
"""

import sys

from benchmarks.studies.in_pictures import BLOCKS, HIGH, LORA, MUON, PictureStudy

STUDY = PictureStudy(
    name="creatures_in_pictures",
    data={"domain": "creatures"},
    people=True,
    arms={
        "full": {"method": "full"},
        "full-high": {"method": "full", "method_options": HIGH},
        "full-muon-high": {"method": "full", "method_options": HIGH, **MUON},
        "lora-high": {"method": "lora", "method_options": {"rank": 16, **HIGH}},
        "lora-muon-high": {"method": "lora", "method_options": LORA, **MUON, **BLOCKS},
        "preset-high": {"preset": "entprog", "method": "lora", "method_options": HIGH},
        "bands-muon-high": {"method": "bands", "method_options": {"m": [4, 0], **HIGH}, **MUON},
        "third-muon-high": {"method": "bands", "method_options": {"m": [4, 4], **HIGH}, **MUON, **BLOCKS},
        "echo-muon-high": {"method": "bands", "method_options": {"m": [4, 4], "echo": 4, **HIGH}, **MUON, **BLOCKS},
    },
    final=(
        ("full-high", 1.0), ("full-muon-high", 1.0), ("lora-muon-high", 0.5), ("bands-muon-high", 0.5),
        ("third-muon-high", 0.5), ("echo-muon-high", 0.5), ("full-high", 0.5), ("full-muon-high", 0.5),
        ("lora-high", 0.5), ("preset-high", 0.5), ("full", 1.0),
    ),
    first=6,
    shown=(
        "truth", "reference", "untrained", "full-high-1", "full-muon-high-1", "full-high-0.5", "lora-muon-high-0.5",
        "bands-muon-high-0.5", "third-muon-high-0.5",
    ),
    rates=(3e-4, 1e-3, 3e-3),
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(sys.argv[1:])

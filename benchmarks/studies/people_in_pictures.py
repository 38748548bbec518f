"""Rendered people who move, judged by pictures: the best full fine-tuning against what trains less of the network.

python -m benchmarks.studies.people_in_pictures costs|tune|runs|one|table|picture

The shipped base learns poses and new people from single frames of 32 rendered people of the target domain; 16 others
are held out, and each seed has other people. Reference and image are different moments, so that a copy of the reference
can't lead, as it does on the real clips of bands_in_pictures. in_pictures.py says how arms are trained and judged; 300
steps of full fine-tuning are the unit of cost.

Arms: full fine-tuning by AdamW and by Muon, with 60 % of the steps at noise levels above .6 ("high") and with their
40 %; LoRA of rank 16 in every block by AdamW and as the preset trains it (Muon, pose adapters in the blocks, in full);
by Muon the last third of the blocks at every noise level ("third"), and only below .6 ("bands").

Budget, fixed before: 1.2 core-hours, one thread a run, on a machine with other work.
"""

import sys

from benchmarks.studies.in_pictures import BLOCKS, HIGH, LORA, MUON, PictureStudy

STUDY = PictureStudy(
    name="people_in_pictures",
    data={"domain": "target"},
    people=True,
    arms={
        "full": {"method": "full"},
        "full-muon": {"method": "full", **MUON},
        "full-muon-high": {"method": "full", "method_options": HIGH, **MUON},
        "lora-high": {"method": "lora", "method_options": {"rank": 16, **HIGH}},
        "lora-muon-high": {"method": "lora", "method_options": LORA, **MUON, **BLOCKS},
        "bands-muon-high": {"method": "bands", "method_options": {"m": [4, 0], **HIGH}, **MUON},
        "third-muon-high": {"method": "bands", "method_options": {"m": [4, 4], **HIGH}, **MUON, **BLOCKS},
    },
    final=(
        ("full-muon-high", 1.0), ("full", 1.0), ("full-muon-high", 0.5), ("lora-muon-high", 0.5),
        ("bands-muon-high", 0.5), ("third-muon-high", 0.5), ("lora-high", 0.5), ("full-muon", 1.0),
    ),
    first=7,
    shown=(
        "truth", "reference", "untrained", "full-1", "full-muon-high-1", "full-muon-high-0.5", "lora-muon-high-0.5",
        "bands-muon-high-0.5", "third-muon-high-0.5",
    ),
    rates_of={"full-muon": (3e-4, 1e-3, 3e-3), "full-muon-high": (3e-4, 1e-3, 3e-3),
              "bands-muon-high": (3e-4, 1e-3, 3e-3), "third-muon-high": (3e-4, 1e-3, 3e-3)},
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(sys.argv[1:])

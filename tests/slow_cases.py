"""Cases that `make test` leaves to `make check`: another case shows the same property in less time.

Each entry is the beginning of a test's name after "tests/". The case that stays is in the comment.
"""

SLOW = (
    # full and lora stay
    "profiling/test_meter_speed.py::test_the_quick_loop_counts_what_the_plain_one_does[prefix",
    "profiling/test_meter_speed.py::test_the_quick_loop_counts_what_the_plain_one_does[optimizer",
    # float32 stays
    "profiling/test_repeats.py::test_figures_are_those_of_metering_everything[skip_loss-new-bfloat16",
    "profiling/test_repeats.py::test_figures_are_those_of_metering_everything[skip_loss-trained-bfloat16",
    "profiling/test_repeats.py::test_figures_are_those_of_metering_everything[cei-trained-bfloat16",
    # lora, bf16 and cache stay
    "plan/test_plan_savings.py::test_savings_are_those_of_a_step_that_runs[mixed",
    "plan/test_plan_savings.py::test_savings_are_those_of_a_step_that_runs[nf4",
    "plan/test_plan_savings.py::test_savings_are_those_of_a_step_that_runs[int8",
    "plan/test_plan_savings.py::test_savings_are_those_of_a_step_that_runs[tokens",
    "plan/test_plan_savings.py::test_savings_are_those_of_a_step_that_runs[offload",
    # nf4 and tokens stay
    "plan/test_plan_savings.py::test_savings_are_composed_exactly[lora",
    "plan/test_plan_savings.py::test_savings_are_composed_exactly[int8",
    "plan/test_plan_savings.py::test_savings_are_composed_exactly[offload",
    "plan/test_plan_savings.py::test_savings_are_composed_exactly[bf16",
    "plan/test_plan_savings.py::test_savings_are_composed_exactly[cache",
    # muon and adamw stay
    "plan/test_plan_savings.py::test_states_of_every_optimizer_are_exact[adamw8bit",
    "plan/test_plan_savings.py::test_states_of_every_optimizer_are_exact[adafactor",
    "plan/test_plan_savings.py::test_states_of_every_optimizer_are_exact[benchmarks",
    "plan/test_plan_savings.py::test_new_blocks_that_rest_are_left_out",  # train/test_adapter_runs has it
    # wan and the last third of the other transformers stay; test_every_family meters svd
    "plan/test_plan_pretrained.py::test_flops_and_bytes_are_those_of_the_step_that_runs[svd",
    "plan/test_plan_pretrained.py::test_flops_and_bytes_are_those_of_the_step_that_runs[hunyuan-video-full",
    "plan/test_plan_pretrained.py::test_flops_and_bytes_are_those_of_the_step_that_runs[hunyuan-video-lora",
    "plan/test_plan_pretrained.py::test_flops_and_bytes_are_those_of_the_step_that_runs[cogvideox-5b-i2v-full",
    "plan/test_plan_pretrained.py::test_flops_and_bytes_are_those_of_the_step_that_runs[cogvideox-5b-i2v-lora",
    "plan/test_plan_pretrained.py::test_an_echoed_step_begins_at_the_lowest_active_block[cogvideox-5b-i2v",
    "plan/test_plan_pretrained.py::test_an_echoed_step_begins_at_the_lowest_active_block[hunyuan-video",
    # supernet, sizes, workloads, full and muon stay; stopped again and again: supernet and full; torn logs: supernet
    "train/test_resume.py::test_going_on_from_any_checkpoint[lisa",
    "train/test_resume.py::test_going_on_from_any_checkpoint[badam",
    "train/test_resume.py::test_going_on_from_any_checkpoint[galore",
    "train/test_resume.py::test_going_on_from_any_checkpoint[muon-2",
    "train/test_resume.py::test_stopped_again_and_again[lisa",
    "train/test_resume.py::test_stopped_again_and_again[badam",
    "train/test_resume.py::test_stopped_again_and_again[galore",
    "train/test_resume.py::test_stopped_again_and_again[muon",
    "train/test_resume.py::test_a_torn_log_is_mended[probe",
    "train/test_resume.py::test_a_torn_log_is_mended[sizes",
    "train/test_resume.py::test_a_torn_log_is_mended[workloads",
    "train/test_resume.py::test_a_torn_log_is_mended[full",
    "train/test_resume.py::test_a_torn_log_is_mended[lisa",
    "train/test_resume.py::test_a_torn_log_is_mended[badam",
    "train/test_resume.py::test_a_torn_log_is_mended[galore",
    "train/test_resume.py::test_a_torn_log_is_mended[muon",
    "train/test_resume.py::test_a_torn_log_is_mended[backward",
    "train/test_resume.py::test_going_on_from_any_checkpoint[backward",
    "train/test_resume.py::test_going_on_from_any_checkpoint[probe",
    "train/test_resume.py::test_stopped_again_and_again[workloads",
    "train/test_resume.py::test_stopped_again_and_again[backward",
    "train/test_resume.py::test_stopped_again_and_again[probe",
    "train/test_resume.py::test_stopped_again_and_again[sizes",
    "train/test_train.py::test_a_full_disk_keeps_the_last_checkpoint",  # test_checkpoint has it
    # mixed and lora stay
    "train/test_adapter_runs.py::test_a_run_ends_in_plain_weights_and_resumes[nf4",
    "train/test_adapter_runs.py::test_a_run_ends_in_plain_weights_and_resumes[images",
    "train/test_adapter_runs.py::test_a_run_ends_in_plain_weights_and_resumes[last",
    # the methods of the package stay, those of the benchmark's rivals and the paper's first search are left
    "house/test_golden.py::test_numbers_are_those_on_record[probe",
    "house/test_golden.py::test_numbers_are_those_on_record[galore",
    "house/test_golden.py::test_numbers_are_those_on_record[badam",
    "house/test_golden.py::test_numbers_are_those_on_record[lisa",
    "cli/test_quiet.py::test_a_command_on_a_pretrained_model_prints_nothing_of_its_libraries",
    "benchmarks/test_bench_run.py::test_a_suite_that_makes_its_own_weights",
    "tasks/test_formula.py::test_formula_equals_the_meter_for_every_active_set[True",
    # hunyuan, with blocks of two kinds, stays; test_own_family and train/test_resume go on within a search, too
    "tasks/pretrained/test_every_family.py::test_a_run_goes_on_bit_for_bit_from_within_a_search[wan-2.2-i2v",
    "tasks/pretrained/test_every_family.py::test_a_run_goes_on_bit_for_bit_from_within_a_search[ltx-video",
    "tasks/pretrained/test_every_family.py::test_a_run_goes_on_bit_for_bit_from_within_a_search[cogvideox-5b-i2v",
    "tasks/pretrained/test_every_family.py::test_frozen_weights_keep_their_bits_over_a_stage_change[svd",
    "tasks/pretrained/test_every_family.py::test_frozen_weights_keep_their_bits_over_a_stage_change[ltx-video",
    "tasks/pretrained/test_every_family.py::test_frozen_weights_keep_their_bits_over_a_stage_change[cogvideox-5b-i2v",
    "tasks/pretrained/test_every_family.py::test_frozen_weights_keep_their_bits_over_a_stage_change[hunyuan-video",
    # of the same network class and family: cogvideox-5b, cogvideox-1.5-i2v, wan-2.1-t2v and wan-2.2-i2v (experts),
    # hunyuan-video-1.5-i2v and pixart-sigma stay
    "tasks/pretrained/test_every_family.py::test_noise_adapters_skipping_and_truncation[cogvideox-2b]",
    "tasks/pretrained/test_every_family.py::test_noise_adapters_skipping_and_truncation[cogvideox-1.5]",
    "tasks/pretrained/test_every_family.py::test_noise_adapters_skipping_and_truncation[wan-2.2-t2v-a14b]",
    "tasks/pretrained/test_every_family.py::test_noise_adapters_skipping_and_truncation[hunyuan-video-1.5]",
    "tasks/pretrained/test_every_family.py::test_noise_adapters_skipping_and_truncation[pixart]",
    # tasks/pretrained/test_every_family.py skips blocks of these
    "tasks/pretrained/test_image_and_unet_families.py::test_skips[unet-motion",
    "tasks/pretrained/test_image_and_unet_families.py::TestSVD::test_skips",
    "tasks/pretrained/test_map_adapters.py::test_skipping_a_block_skips_its_adapter[unet-motion",
    "tasks/pretrained/test_map_adapters.py::test_skipping_a_block_skips_its_adapter[svd",  # unet-2d stays here
    # wan-2.1-t2v stays
    "export/test_export.py::test_comfy_file_on_original_weights_gives_the_trained_weights[ltx-video",
    "export/test_export.py::test_comfy_file_on_original_weights_gives_the_trained_weights[hunyuan-video",
    "export/test_export.py::test_comfy_file_on_original_weights_gives_the_trained_weights[wan-2.2-i2v",
    # supernet-keep stays; train/test_resume goes on with sizes of a supernet
    "methods/test_methods.py::test_a_saved_state_goes_on_exactly[sizes of a supernet-keep",
    "methods/test_methods.py::test_a_saved_state_goes_on_exactly[sizes-keep",
    "methods/test_methods.py::test_a_saved_state_goes_on_exactly[probe-keep",
    # every combination of adamw and muon stays; of the others, states kept in a plain step, and some in the backward
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adamw8bit-False-drop",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adamw8bit-False-offload",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adamw8bit-True-keep",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adafactor-False-drop",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adafactor-False-offload",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adafactor-True-keep",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[adafactor-True-drop",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[benchmarks.rivals.galore:Galore-False-drop",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[benchmarks.rivals.galore:Galore-False-offload",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[benchmarks.rivals.galore:Galore-True-keep",
    "optimizers/test_optimizer.py::test_going_on_from_a_checkpoint_bit_for_bit[benchmarks.rivals.galore:Galore-True-drop",
    # float32-adamw-False, bf16-adamw-True and bf16-muon-False stay
    "savings/test_weight_precision.py::test_going_on_is_bit_exact[float32-adamw-True",
    "savings/test_weight_precision.py::test_going_on_is_bit_exact[bf16-adamw-False",
    "savings/test_weight_precision.py::test_going_on_is_bit_exact[bf16-muon-True",
)

#include "job/launcher.h"

#include <stdio.h>

static bool launch_process(struct process *process, const struct job_launch *launch, struct err *err)
{
    char attempt[24];
    const char *argv[] = {launch->program, "train", "--run", launch->run_dir, "--attempt", attempt,
                          launch->device ? "--device" : NULL, launch->device, NULL};
    struct process_spawn spawn = {
        .argv = argv, .cwd = launch->run_dir, .output_path = launch->log_path, .nice = launch->nice};

    snprintf(attempt, sizeof attempt, "%lld", (long long)launch->attempt);
    return process_spawn(process, &spawn, err);
}

const struct job_launcher launcher_local = {
    .launch = launch_process,
    .go = process_go,
    .adopt = process_adopt,
    .signal = process_signal,
    .kill = process_kill_group,
    .has_ended = process_has_ended,
};

"""A run as the real client of W&B makes it: reads what to log as JSON from standard input. The interpreter has wandb in
it."""
import json
import sys

import wandb

told = json.load(sys.stdin)
run = wandb.init(project=told["project"], entity=told.get("entity"), id=told["id"], name=told["name"],
                 tags=told["tags"], config=told["config"],
                 settings=wandb.Settings(x_disable_stats=True, x_disable_meta=True, disable_git=True, disable_code=True,
                                         save_code=False, console="wrap", silent=True))
for line in told["console"]:
    print(line, flush=True)
for step, metrics in told["metrics"]:
    run.log(metrics, step=step)
run.finish(exit_code=told["exit_code"])
print(run.url)

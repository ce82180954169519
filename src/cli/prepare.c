/* attune prepare: the data of a run, before it is trained on. */
#include "cli/cli.h"
#include "cli/options.h"
#include "train/train.h"

#include <stdio.h>

int cli_prepare(int argc, char **argv)
{
    const char *run = NULL;
    const struct option list[] = {{"run", OPTION_TEXT, &run, "DIR", "the run directory that holds job.json", NULL}};
    const struct options options = {
        .usage = "attune prepare --run DIR",
        .about = "Turns a run's data files into tokens in the shared cache and links them into the run directory.",
        .list = list,
        .count = 1,
    };
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err) ||
        (!run && !err_set(&err, ERR_INPUT, "--run is missing (see --help)"))) {
        fprintf(stderr, "attune prepare: %s\n", err.text);
        return 2;
    }
    if (!train_prepare(run, &err)) {
        fprintf(stderr, "attune prepare: %s\n", err.text);
        return 1;
    }
    return 0;
}

#include "cli/cli.h"
#include "cli/options.h"
#include "hub/fetch.h"
#include "os/process.h"

#include <stdio.h>
#include <unistd.h>

int cli_fetch(int argc, char **argv)
{
    const struct options options = {
        .usage = "attune fetch",
        .about = "Fetches the weights that a job waits for: a document on standard input, progress on standard "
                 "output (src/hub/fetch.h). The server starts it by itself; at a terminal there is 'attune models "
                 "pull'.",
    };
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err)) {
        fprintf(stderr, "attune fetch: %s\n", err.text);
        return 2;
    }
    if (process_forbid_core(&err) && process_end_with_parent(&err) && fetch_run(STDIN_FILENO, STDOUT_FILENO, &err))
        return 0;
    fprintf(stderr, "attune fetch: %s\n", err.text);
    return 1;
}

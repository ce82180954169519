#include "cli/cli.h"
#include "cli/options.h"
#include "os/process.h"
#include "track/sending.h"

#include <stdio.h>
#include <unistd.h>

int cli_send(int argc, char **argv)
{
    const struct options options = {
        .usage = "attune send",
        .about = "Tells one service what a job did: a document on standard input, progress on standard output "
                 "(src/track/sending.h). The server starts it by itself.",
    };
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err)) {
        fprintf(stderr, "attune send: %s\n", err.text);
        return 2;
    }
    if (process_forbid_core(&err) && process_end_with_parent(&err) && sending_run(STDIN_FILENO, STDOUT_FILENO, &err))
        return 0;
    fprintf(stderr, "attune send: %s\n", err.text);
    return 1;
}

/* attune doctor: is everything in a data folder as it must be? */
#include "cli/cli.h"
#include "cli/options.h"
#include "job/doctor.h"

#include <stdio.h>

int cli_doctor(int argc, char **argv)
{
    const char *data = NULL;
    bool with_hashes = false;
    const struct option list[] = {
        {"data", OPTION_TEXT, &data, "DIR", "the data folder of a server, which may be running", NULL},
        {"hashes", OPTION_FLAG, &with_hashes, NULL, "read every byte and hold it against its hash (no)", NULL},
    };
    const struct options options = {
        .usage = "attune doctor --data DIR [--hashes]",
        .about = "Holds the database and what lies on the disk against each other and against the rules that they "
                 "keep: states of jobs, rows without bytes, bytes without rows, sums. Changes nothing. Ends with "
                 "status 1 when it finds something.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct arena arena = {0};
    struct findings findings;
    struct err err = {0};
    int status = 2;

    if (options_parse(&options, argc, argv, NULL, NULL, &err) &&
        (data || err_set(&err, ERR_INPUT, "--data is required: the data folder to look at"))) {
        status = 1;
        if (doctor_examine(data, with_hashes, &arena, &findings, &err)) {
            for (size_t i = 0; i < findings.count; i++)
                printf("%s: %s\n", findings.at[i].what, findings.at[i].id);
            printf("%zu findings\n", findings.count);
            status = findings.count > 0;
        }
    }
    if (err.code)
        fprintf(stderr, "attune doctor: %s\n", err.text);
    arena_deinit(&arena);
    return status;
}

/* attune backup: a copy of a data folder beside its server, and whether one is whole. */
#include "cli/cli.h"
#include "cli/options.h"
#include "job/backup.h"

#include <stdio.h>
#include <string.h>

struct arguments {
    const char *data;
    bool with_hashes, independent;
};

static bool make(const struct arguments *a, const char *to, struct err *err)
{
    struct backup_report report;

    if (!a->data)
        return err_set(err, ERR_INPUT, "--data is required: the data folder to copy");
    if (!backup_make(a->data, to, a->independent, &report, err))
        return false;
    printf("%s: %lld files, %lld bytes, %lld of them copied\n", report.path, (long long)report.files,
           (long long)report.bytes, (long long)report.copied_bytes);
    return true;
}

static bool verify(const struct arguments *a, const char *path, struct err *err)
{
    if (!backup_verify(path, a->with_hashes, err))
        return false;
    printf("%s: everything that it lists is there%s\n", path, a->with_hashes ? ", byte by byte" : "");
    return true;
}

int cli_backup(int argc, char **argv)
{
    struct arguments a = {0};
    const struct option list[] = {
        {"data", OPTION_TEXT, &a.data, "DIR", "the data folder of a server, which may be running", NULL},
        {"independent", OPTION_FLAG, &a.independent, NULL,
         "copy bytes even where a hard link into the data folder would do (no)", NULL},
        {"hashes", OPTION_FLAG, &a.with_hashes, NULL, "verify: read every byte and hold it against its hash (no)",
         NULL},
    };
    const struct options options = {
        .usage = "attune backup --data DIR TO\n       attune backup verify FOLDER [--hashes]",
        .about = "Copies a data folder to a new folder in TO, named by the time, while its server works. Bytes that "
                 "an earlier backup in TO has, or that lie on the same file system, are shared by hard links. "
                 "Started on the copy, a server goes on from that moment.",
        .list = list,
        .count = sizeof list / sizeof *list,
        .positional_min = 1,
        .positional_max = 2,
    };
    const char *words[2] = {0};
    struct err err = {0};
    int count = 0;
    bool ok;

    if (!options_parse(&options, argc, argv, words, &count, &err)) {
        fprintf(stderr, "attune backup: %s\n", err.text);
        return 2;
    }
    if (count == 2 && strcmp(words[0], "verify") != 0)
        ok = err_set(&err, ERR_INPUT, "unknown action '%s': give a folder, or verify and a folder", words[0]);
    else
        ok = count == 2 ? verify(&a, words[1], &err) : make(&a, words[0], &err);
    if (!ok)
        fprintf(stderr, "attune backup: %s\n", err.text);
    return ok ? 0 : 1;
}

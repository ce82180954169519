#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

static bool list(struct remote *remote, struct err *err)
{
    const struct json *files = remote_get(remote, "/v1/files?limit=1000", err);

    if (!files)
        return false;
    printf("%-42s %12s %-10s %-18s %s\n", "id", "bytes", "status", "purpose", "name");
    for json_each (file, json_get(files, "data"))
        printf("%-42s %12lld %-10s %-18s %s\n", remote_text(remote, file, "id"),
               (long long)json_integer_or(json_get(file, "bytes"), 0), remote_text(remote, file, "status"),
               remote_text(remote, file, "purpose"), remote_text(remote, file, "filename"));
    return true;
}

static bool upload(struct remote *remote, const char *path, const char *purpose, struct err *err)
{
    const struct json *file = remote_upload(remote, path, purpose, err);

    if (!file)
        return false;
    printf("%s\n", remote_text(remote, file, "id"));
    if (strcmp(remote_text(remote, file, "status"), "error") == 0)
        return err_set(err, ERR_INPUT, "uploaded, but not valid training data: %s",
                       remote_text(remote, file, "status_details"));
    return true;
}

static bool download(struct remote *remote, const char *id, const char *out, struct err *err)
{
    const struct json *file = remote_get(remote, arena_printf(&remote->arena, "/v1/files/%s", id), err);

    if (!file)
        return false;
    if (!out)
        out = path_name(remote_text(remote, file, "filename"));
    if (!remote_download(remote, arena_printf(&remote->arena, "/v1/files/%s/content", id), out, err))
        return false;
    printf("%s\n", out);
    return true;
}

int cli_files(int argc, char **argv)
{
    const char *url = NULL, *purpose = "fine-tune", *out = NULL, *words[2] = {0};
    const struct option option[] = {
        {"url", OPTION_TEXT, &url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL},
        {"purpose", OPTION_TEXT, &purpose, "WORD", "of an upload (default fine-tune)", NULL},
        {"out", OPTION_TEXT, &out, "FILE", "where a download goes (default: the file's own name)", NULL},
    };
    const struct options options = {.usage = "attune files list | upload FILE | get ID | download ID | delete ID",
                                    .about = "Files of a running server.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .positional_min = 1,
                                    .positional_max = 2};
    struct remote remote;
    struct err err = {0};
    const struct json *answer = NULL;
    bool ok = false;

    if (!options_parse(&options, argc, argv, words, NULL, &err)) {
        fprintf(stderr, "attune files: %s\n", err.text);
        return 2;
    }
    remote_open(&remote, url);
    if (strcmp(words[0], "list") == 0)
        ok = list(&remote, &err);
    else if (!words[1])
        err_set(&err, ERR_INPUT, "%s needs a file or an id", words[0]);
    else if (strcmp(words[0], "upload") == 0)
        ok = upload(&remote, words[1], purpose, &err);
    else if (strcmp(words[0], "download") == 0)
        ok = download(&remote, words[1], out, &err);
    else if (strcmp(words[0], "get") == 0)
        answer = remote_get(&remote, arena_printf(&remote.arena, "/v1/files/%s", words[1]), &err);
    else if (strcmp(words[0], "delete") == 0)
        answer = remote_delete(&remote, arena_printf(&remote.arena, "/v1/files/%s", words[1]), &err);
    else
        err_set(&err, ERR_INPUT, "unknown action '%s': list, upload, get, download or delete", words[0]);
    if (answer)
        remote_print(answer);
    ok = ok || answer;
    remote_close(&remote);
    if (!ok)
        fprintf(stderr, "attune files: %s\n", err.text);
    return ok ? 0 : 1;
}

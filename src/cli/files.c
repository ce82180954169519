#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "http/url.h"
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
    if (!out && file_exists(out = path_name(remote_text(remote, file, "filename"))))
        return err_set(err, ERR_CONFLICT, "there is a file %s here already: --out names another", out);
    if (!remote_download(remote, arena_printf(&remote->arena, "/v1/files/%s/content", id), out, err))
        return false;
    printf("%s\n", out);
    return true;
}

static void print_sequence(struct remote *remote, const struct json *sequence)
{
    int position = 0;

    printf("position      id  trains  token\n");
    for json_each (token, json_get(sequence, "tokens")) {
        struct strbuf text = {0};
        json_write_string(&(struct json_writer){.buf = &text}, json_string_or(json_get(token, "text"), STR("")));
        printf("%8d  %6lld  %s  %s\n", position++, (long long)json_integer_or(json_get(token, "id"), 0),
               json_bool_or(json_get(token, "trained"), false) ? "train " : "      ", text.at);
        strbuf_deinit(&text);
    }
    printf("%lld tokens, %lld train\n", (long long)json_integer_or(json_get(sequence, "token_count"), 0),
           (long long)json_integer_or(json_get(sequence, "trained_count"), 0));
}

static void print_line(struct remote *remote, const struct json *line)
{
    printf("line %lld%s%s\n", (long long)json_integer_or(json_get(line, "line"), 0),
           json_get(line, "error") ? ": " : "", remote_text(remote, line, "error"));
    for json_each (member, line) {
        if (member->type != JSON_OBJECT)
            continue;
        printf("%.*s\n", STR_ARG(member->key));
        print_sequence(remote, member);
    }
    if (json_get(line, "tokens"))
        print_sequence(remote, line);
}

static bool preview(struct remote *remote, const char *id, const char *model, int64_t line, int64_t count,
                    struct err *err)
{
    struct strbuf path = {0};
    const struct json *answer;

    if (!model)
        return err_set(err, ERR_INPUT, "preview needs --model: tokens depend on it");
    strbuf_printf(&path, "/v1/files/%s/preview?line=%lld&count=%lld&model=", id, (long long)line, (long long)count);
    url_encode(&path, str_of(model));
    answer = remote_get(remote, path.at, err);
    strbuf_deinit(&path);
    for json_each (shown, json_get(answer, "lines"))
        print_line(remote, shown);
    return answer != NULL;
}

int cli_files(int argc, char **argv)
{
    const char *url = NULL, *purpose = "fine-tune", *out = NULL, *model = NULL, *words[2] = {0};
    int64_t line = 1, count = 1;
    const struct option option[] = {
        {"url", OPTION_TEXT, &url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL},
        {"purpose", OPTION_TEXT, &purpose, "WORD", "of an upload (default fine-tune)", NULL},
        {"out", OPTION_TEXT, &out, "FILE", "where a download goes (default: the file's own name, if none is there)",
         NULL},
        {"model", OPTION_TEXT, &model, "NAME", "of a preview: whose tokens are shown", NULL},
        {"line", OPTION_INT, &line, "N", "of a preview: the first line (1)", NULL},
        {"count", OPTION_INT, &count, "N", "of a preview: how many lines (1)", NULL},
    };
    const struct options options = {
        .usage = "attune files list | upload FILE | get ID | preview ID --model NAME | download ID | delete ID",
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
    else if (strcmp(words[0], "preview") == 0)
        ok = preview(&remote, words[1], model, line, count, &err);
    else if (strcmp(words[0], "download") == 0)
        ok = download(&remote, words[1], out, &err);
    else if (strcmp(words[0], "get") == 0)
        answer = remote_get(&remote, arena_printf(&remote.arena, "/v1/files/%s", words[1]), &err);
    else if (strcmp(words[0], "delete") == 0)
        answer = remote_delete(&remote, arena_printf(&remote.arena, "/v1/files/%s", words[1]), &err);
    else
        err_set(&err, ERR_INPUT, "unknown action '%s': list, upload, get, preview, download or delete", words[0]);
    if (answer)
        remote_print(answer);
    ok = ok || answer;
    remote_close(&remote);
    if (!ok)
        fprintf(stderr, "attune files: %s\n", err.text);
    return ok ? 0 : 1;
}

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "http/url.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

struct files {
    struct remote remote;
    const char *purpose, *out, *model;
    int64_t line, count;
};

static bool list(void *context, const char *const *words, struct err *err)
{
    struct remote *remote = &((struct files *)context)->remote;
    const struct json *files = remote_get(remote, "/v1/files?limit=1000", err);

    if (!files)
        return false;
    printf("%-42s %12s %-10s %-18s %s\n", "id", "bytes", "status", "purpose", "name");
    json_each(file, json_get(files, "data"))
        printf("%-42s %12lld %-10s %-18s %s\n", remote_text(remote, file, "id"),
               (long long)json_integer_or(json_get(file, "bytes"), 0), remote_text(remote, file, "status"),
               remote_text(remote, file, "purpose"), remote_text(remote, file, "filename"));
    return true;
}

static bool upload(void *context, const char *const *words, struct err *err)
{
    struct files *files = context;
    struct remote *remote = &files->remote;
    const struct json *file = remote_upload(remote, words[0], files->purpose, err);

    if (!file)
        return false;
    printf("%s\n", remote_text(remote, file, "id"));
    if (strcmp(remote_text(remote, file, "status"), "error") == 0)
        return err_set(err, ERR_INPUT, "uploaded, but not valid training data: %s",
                       remote_text(remote, file, "status_details"));
    return true;
}

static bool download(void *context, const char *const *words, struct err *err)
{
    struct files *files = context;
    struct remote *remote = &files->remote;
    const char *path = arena_printf(&remote->arena, "/v1/files/%s", words[0]), *out = files->out;
    const struct json *file = remote_get(remote, path, err);

    if (!file)
        return false;
    if (!out && file_exists(out = path_name(remote_text(remote, file, "filename"))))
        return err_set(err, ERR_CONFLICT, "there is a file %s here already: --out names another", out);
    if (!remote_download(remote, arena_printf(&remote->arena, "%s/content", path), out, err))
        return false;
    printf("%s\n", out);
    return true;
}

static void print_sequence(struct remote *remote, const struct json *sequence)
{
    int position = 0;

    printf("position      id  trains  token\n");
    json_each(token, json_get(sequence, "tokens")) {
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
    json_each(member, line) {
        if (member->type != JSON_OBJECT)
            continue;
        printf("%.*s\n", STR_ARG(member->key));
        print_sequence(remote, member);
    }
    if (json_get(line, "tokens"))
        print_sequence(remote, line);
}

static bool preview(void *context, const char *const *words, struct err *err)
{
    struct files *files = context;
    struct remote *remote = &files->remote;
    struct strbuf path = {0};
    const struct json *answer;

    strbuf_printf(&path, "/v1/files/%s/preview?line=%lld&count=%lld&model=", words[0], (long long)files->line,
                  (long long)files->count);
    url_encode(&path, str_of(files->model));
    answer = remote_get(remote, path.at, err);
    strbuf_deinit(&path);
    json_each(shown, json_get(answer, "lines"))
        print_line(remote, shown);
    return answer != NULL;
}

static bool get(void *context, const char *const *words, struct err *err)
{
    struct remote *remote = &((struct files *)context)->remote;
    const struct json *answer = remote_get(remote, arena_printf(&remote->arena, "/v1/files/%s", words[0]), err);

    if (answer)
        remote_print(answer);
    return answer != NULL;
}

static bool delete_file(void *context, const char *const *words, struct err *err)
{
    struct remote *remote = &((struct files *)context)->remote;
    const struct json *answer = remote_delete(remote, arena_printf(&remote->arena, "/v1/files/%s", words[0]), err);

    if (answer)
        remote_print(answer);
    return answer != NULL;
}

static const struct action actions[] = {
    {"list", NULL, "the newest thousand", list},
    {"upload", "FILE", "prints the id of what it uploads", upload},
    {"get", "ID", "prints a file's row as JSON", get},
    {"preview", "ID --model NAME", "lines of a training file token by token, as that model would be trained on them",
     preview},
    {"download", "ID", "the content, into a new file", download},
    {"delete", "ID", "deletes a file", delete_file},
};

static bool check(const struct action *action, void *context, struct err *err)
{
    const struct files *files = context;

    return action->run != preview || files->model ||
           err_set(err, ERR_INPUT, "preview needs --model: tokens depend on it");
}

int cli_files(int argc, char **argv)
{
    struct files files = {.purpose = "fine-tune", .line = 1, .count = 1};
    const struct option option[] = {
        REMOTE_OPTION(files.remote),
        {"purpose", OPTION_TEXT, &files.purpose, "WORD", "of an upload (default fine-tune)", NULL},
        {"out", OPTION_TEXT, &files.out, "FILE",
         "where a download goes (default: the file's own name, if none is there)", NULL},
        {"model", OPTION_TEXT, &files.model, "NAME", "of a preview: whose tokens are shown", NULL},
        {"line", OPTION_INT, &files.line, "N", "of a preview: the first line (1)", NULL},
        {"count", OPTION_INT, &files.count, "N", "of a preview: how many lines (1)", NULL},
    };
    const struct options options = {.usage = "attune files ACTION [options]",
                                    .about = "Files of a running server.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .actions = actions,
                                    .action_count = sizeof actions / sizeof *actions,
                                    .check = check};
    int status = options_act(&options, argc, argv, &files);

    remote_close(&files.remote);
    return status;
}

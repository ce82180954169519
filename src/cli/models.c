#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"

#include <stdio.h>
#include <string.h>

int cli_models(int argc, char **argv)
{
    const char *url = NULL, *words[2] = {0};
    const struct option option[] = {
        {"url", OPTION_TEXT, &url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL}};
    const struct options options = {.usage = "attune models list",
                                    .about = "Base models and results of a running server.",
                                    .list = option,
                                    .count = 1,
                                    .positional_min = 1,
                                    .positional_max = 2};
    struct remote remote;
    struct err err = {0};
    const struct json *models = NULL;

    if (!options_parse(&options, argc, argv, words, NULL, &err)) {
        fprintf(stderr, "attune models: %s\n", err.text);
        return 2;
    }
    remote_open(&remote, url);
    if (strcmp(words[0], "list") == 0)
        models = remote_get(&remote, "/v1/models", &err);
    else if (strcmp(words[0], "pull") == 0 || strcmp(words[0], "merge") == 0)
        err_set(&err, ERR_UNSUPPORTED, "models %s is not there yet", words[0]);
    else
        err_set(&err, ERR_INPUT, "unknown action '%s': list", words[0]);
    for json_each (model, json_get(models, "data"))
        printf("%s\n", remote_text(&remote, model, "id"));
    remote_close(&remote);
    if (!models)
        fprintf(stderr, "attune models: %s\n", err.text);
    return models ? 0 : 1;
}

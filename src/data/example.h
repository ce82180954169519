/* data/example.h - one line of a training file.
 *
 * A file holds examples of one of five kinds, one JSON object a line:
 *
 *   messages    {"messages": [{"role", "content", …}, …], "tools": […]}     weight 0 or 1 on assistant messages
 *   prompt      {"prompt": "…", "completion": "…"}, or both arrays of messages
 *   text        {"text": "…"}
 *   token_ids   {"token_ids": [1, 2, …], "labels": [-100, 2, …]}            labels optional
 *   preference  {"prompt", "chosen", "rejected"} and other shapes            data/preference.h; for method dpo
 *
 * What TRL takes is taken, too: conversations for messages, with from and value (data/sharegpt.h), tools as JSON text,
 * chat_template_kwargs, input_ids for token_ids, completion_mask and assistant_masks beside them.
 *
 * Reading checks everything that can be known without a model, and brings conversations into the shape that chat
 * templates expect: content given as text parts becomes one string, tool call arguments given as JSON text become
 * the value they spell. Members it does not know stay where they are, for the template. Messages of errors name
 * the field: "messages[2].weight is 3: it must be 0 or 1". */
#pragma once

#include "base/err.h"
#include "base/json.h"

#define EXAMPLE_KINDS(X)                                                                                               \
    X(MESSAGES, "messages")                                                                                            \
    X(PROMPT, "prompt")                                                                                                \
    X(TEXT, "text")                                                                                                    \
    X(TOKENS, "token_ids")                                                                                             \
    X(PREFERENCE, "preference")

enum example_kind {
#define EXAMPLE_ENUM(name, text) EXAMPLE_##name,
    EXAMPLE_KINDS(EXAMPLE_ENUM)
#undef EXAMPLE_ENUM
    EXAMPLE_KIND_COUNT
};

/* The member that gives the kind its name; a preference has other members. */
const char *example_kind_name(enum example_kind kind);
/* Token sequences that an example of this kind becomes: 2 for a preference, chosen and rejected; 1 for all others. */
enum { EXAMPLE_SEQUENCES_MAX = 2 };
int example_kind_sequences(enum example_kind kind);

/* A label with this value carries no loss. */
enum { EXAMPLE_NO_LABEL = -100 };

/* The completions of a conversation with the prompt's messages in front of each, or those of a text alone. */
struct preference {
    struct json *chosen, *rejected;        /* arrays; NULL: it is about texts */
    struct str chosen_text, rejected_text; /* behind example->prompt */
};

struct example {
    enum example_kind kind;
    struct json *root;             /* the whole object */
    struct json *messages;         /* EXAMPLE_MESSAGES: array; PROMPT, PREFERENCE: the prompt's, NULL for texts */
    struct json *completed;        /* EXAMPLE_PROMPT about messages: the prompt's with the completion's behind them */
    struct json *tools;            /* with messages: array, or NULL */
    struct str prompt, completion; /* EXAMPLE_PROMPT; the prompt of an EXAMPLE_PREFERENCE about texts */
    struct str text;               /* EXAMPLE_TEXT */
    struct json *token_ids;        /* EXAMPLE_TOKENS: array of integers */
    struct json *labels;           /* EXAMPLE_TOKENS: array as long as token_ids, or NULL */
    struct preference preference;  /* EXAMPLE_PREFERENCE */
};

/* `line` is one line without its end; it and the arena must outlive the example. */
bool example_parse(struct arena *arena, struct str line, struct example *example, struct err *err);

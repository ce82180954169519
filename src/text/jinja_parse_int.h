/* text/jinja_parse_int.h - what the parser's two files share. */
#pragma once

#include "text/jinja_lex.h"
#include "text/jinja_parse.h"

#define TREE_HEIGHT_MAX 200

struct parser {
    struct arena *arena;
    struct jinja_token *token; /* the current one */
    struct node *macro;        /* innermost macro being parsed */
    uint32_t depth;            /* of the parser's own recursion */
    bool is_soft;              /* inside an if: an unknown filter or test fails only when it is reached */
    struct node *unknown;      /* the first filter or test elsewhere that does not exist */
    bool has_generation;
    int loop_depth; /* for blocks around, for break and continue */
    struct err *err;
};

/* A list under construction. */
struct node_list {
    struct node *first, **end;
};

bool parse_fail(struct parser *parser, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct node *node_new(struct parser *parser, enum node_kind kind, uint32_t line);
void node_list_add(struct node_list *list, struct node *node);
/* Sets the height from the children; fails when the tree grows too high. */
bool node_seal(struct parser *parser, struct node *node);

bool token_is(const struct parser *parser, char op);
bool token_is_name(const struct parser *parser, const char *name);
bool token_skip(struct parser *parser, char op);
bool token_skip_name(struct parser *parser, const char *name);
bool token_expect(struct parser *parser, char op);
bool token_expect_name(struct parser *parser, struct str *name);
/* "'}'", "end of block", … for messages; static storage or the arena. */
const char *token_describe(struct parser *parser);

/* All return NULL with err set on failure. */
struct node *parse_expression(struct parser *parser);
/* a, b, c as a tuple; a alone as itself. with_condition: "x if y" is read as a condition. */
struct node *parse_tuple(struct parser *parser, bool with_condition, bool empty_is_fine);
/* A chain of filters; starts_inline: the first stands without '|'. */
struct node *parse_filters(struct parser *parser, struct node *input, bool starts_inline);

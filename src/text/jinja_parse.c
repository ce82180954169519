#include "text/jinja_parse.h"
#include "text/jinja_parse_int.h"

#include <stdio.h>

static struct node *parse_body(struct parser *parser, const char *const *ends, bool *ok);

bool parse_fail(struct parser *parser, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    err_set(parser->err, ERR_INPUT, "chat template, line %u: %s", parser->token->line,
            arena_vprintf(parser->arena, format, args));
    va_end(args);
    return false;
}

struct node *node_new(struct parser *parser, enum node_kind kind, uint32_t line)
{
    struct node *node = arena_new(parser->arena, struct node);

    node->kind = (uint8_t)kind;
    node->line = line;
    node->height = 1;
    return node;
}

void node_list_add(struct node_list *list, struct node *node)
{
    *list->end = node;
    list->end = &node->next;
}

bool node_seal(struct parser *parser, struct node *node)
{
    const struct node *children[] = {node->left, node->right, node->third, node->items, node->params, node->otherwise};

    for (size_t i = 0; i < sizeof children / sizeof *children; i++)
        for (const struct node *child = children[i]; child; child = child->next) {
            if (node->height <= child->height)
                node->height = child->height + 1;
            if (i < 3) /* a single child: its `next` belongs to another list */
                break;
        }
    return node->height <= TREE_HEIGHT_MAX || parse_fail(parser, "the template is nested too deeply");
}

bool token_is(const struct parser *parser, char op)
{
    return parser->token->kind == TOKEN_OPERATOR && parser->token->op == (uint8_t)op;
}

bool token_is_name(const struct parser *parser, const char *name)
{
    return parser->token->kind == TOKEN_NAME && str_is(parser->token->text, name);
}

bool token_skip(struct parser *parser, char op)
{
    if (!token_is(parser, op))
        return false;
    parser->token++;
    return true;
}

bool token_skip_name(struct parser *parser, const char *name)
{
    if (!token_is_name(parser, name))
        return false;
    parser->token++;
    return true;
}

const char *token_describe(struct parser *parser)
{
    static const char *const kinds[] = {"end of template", "text", "'{{'", "'}}'", "'{%'", "end of block"};

    if (parser->token->kind < sizeof kinds / sizeof *kinds)
        return kinds[parser->token->kind];
    return arena_printf(parser->arena, "'%.*s'", STR_ARG(str_slice(parser->token->text, 0, 60)));
}

bool token_expect(struct parser *parser, char op)
{
    return token_skip(parser, op) || parse_fail(parser, "'%c' is missing before %s", op, token_describe(parser));
}

bool token_expect_name(struct parser *parser, struct str *name)
{
    if (parser->token->kind != TOKEN_NAME)
        return parse_fail(parser, "a name is missing before %s", token_describe(parser));
    *name = (parser->token++)->text;
    return true;
}

static bool expect_name(struct parser *parser, const char *name)
{
    return token_skip_name(parser, name) ||
           parse_fail(parser, "'%s' is missing before %s", name, token_describe(parser));
}

static bool expect_block_end(struct parser *parser)
{
    if (parser->token->kind != TOKEN_BLOCK_END)
        return parse_fail(parser, "the block should end before %s", token_describe(parser));
    parser->token++;
    return true;
}

/* One name, or with allows_namespace also name.attribute. */
static struct node *parse_target_name(struct parser *parser, bool allows_namespace)
{
    struct node *node = node_new(parser, NODE_NAME, parser->token->line);
    struct str attribute;

    if (!token_expect_name(parser, &node->name))
        return NULL;
    if (str_is(node->name, "true") || str_is(node->name, "false") || str_is(node->name, "none") ||
        str_is(node->name, "True") || str_is(node->name, "False") || str_is(node->name, "None")) {
        parse_fail(parser, "'%.*s' cannot be assigned to", STR_ARG(node->name));
        return NULL;
    }
    if (allows_namespace && token_skip(parser, '.')) {
        if (!token_expect_name(parser, &attribute))
            return NULL;
        node->kind = NODE_NAMESPACE_TARGET;
        node->constant = value_string(attribute);
    }
    return node;
}

/* a or a, b or (a, b), each a name. */
static struct node *parse_target(struct parser *parser, bool allows_namespace)
{
    struct node *tuple = node_new(parser, NODE_TUPLE, parser->token->line), *name;
    struct node_list list = {.end = &tuple->items};
    bool has_parenthesis = token_skip(parser, '('), has_comma = false;

    do {
        if (tuple->items && parser->token->kind != TOKEN_NAME)
            break;
        if (!(name = parse_target_name(parser, allows_namespace)))
            return NULL;
        node_list_add(&list, name);
        has_comma |= token_is(parser, ',');
    } while (token_skip(parser, ',') && !token_is_name(parser, "in"));
    if (has_parenthesis && !token_expect(parser, ')'))
        return NULL;
    if (!has_comma)
        return tuple->items;
    return node_seal(parser, tuple) ? tuple : NULL;
}

/* The body up to {% end %}, whose name is consumed; a scope of its own is no longer soft. */
static bool parse_scope(struct parser *parser, struct node *node, const char *end)
{
    const char *const ends[] = {end, NULL};
    bool was_soft = parser->is_soft, ok;

    if (!expect_block_end(parser))
        return false;
    parser->is_soft = false;
    node->items = parse_body(parser, ends, &ok);
    parser->is_soft = was_soft;
    return ok && expect_name(parser, end) && node_seal(parser, node);
}

/* One branch: its condition when it has one, and its body up to the next branch or the end. */
static struct node *parse_branch(struct parser *parser, bool has_test)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    struct node *branch = node_new(parser, NODE_BRANCH, (parser->token++)->line);
    bool ok;

    if (has_test && !(branch->left = parse_tuple(parser, false, false)))
        return NULL;
    if (!expect_block_end(parser))
        return NULL;
    branch->items = parse_body(parser, has_test ? ends : (const char *const[]){"endif", NULL}, &ok);
    return ok && node_seal(parser, branch) ? branch : NULL;
}

static struct node *parse_if(struct parser *parser)
{
    struct node *node = node_new(parser, NODE_IF, parser->token->line);
    struct node_list list = {.end = &node->items};
    bool was_soft = parser->is_soft, has_test;

    parser->is_soft = true;
    do {
        struct node *branch;
        has_test = !token_is_name(parser, "else");
        if (!(branch = parse_branch(parser, has_test)))
            return NULL;
        node_list_add(&list, branch);
    } while (!token_is_name(parser, "endif"));
    parser->is_soft = was_soft;
    parser->token++;
    return node_seal(parser, node) ? node : NULL;
}

static struct node *parse_for(struct parser *parser)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const else_ends[] = {"endfor", NULL};
    struct node *node = node_new(parser, NODE_FOR, (parser->token++)->line);
    bool was_soft = parser->is_soft, ok;

    if (!(node->left = parse_target(parser, false)) || !expect_name(parser, "in") ||
        !(node->right = parse_tuple(parser, false, false)))
        return NULL;
    if (token_skip_name(parser, "if") && !(node->third = parse_expression(parser)))
        return NULL;
    if (token_is_name(parser, "recursive")) {
        parse_fail(parser, "recursive loops are not supported");
        return NULL;
    }
    if (!expect_block_end(parser))
        return NULL;
    parser->is_soft = false;
    parser->loop_depth++;
    node->items = parse_body(parser, ends, &ok);
    parser->loop_depth--;
    if (ok && token_skip_name(parser, "else")) {
        if (!expect_block_end(parser))
            return NULL;
        node->otherwise = parse_body(parser, else_ends, &ok);
    }
    parser->is_soft = was_soft;
    return ok && expect_name(parser, "endfor") && node_seal(parser, node) ? node : NULL;
}

static struct node *parse_set(struct parser *parser)
{
    struct node *node = node_new(parser, NODE_SET, (parser->token++)->line);

    if (!(node->left = parse_target(parser, true)))
        return NULL;
    if (token_skip(parser, '='))
        return (node->right = parse_tuple(parser, true, false)) && node_seal(parser, node) ? node : NULL;
    node->kind = NODE_SET_BLOCK;
    if (token_is(parser, '|') && !(node->right = parse_filters(parser, NULL, false)))
        return NULL;
    return parse_scope(parser, node, "endset") ? node : NULL;
}

static struct node *parse_filter_block(struct parser *parser)
{
    struct node *node = node_new(parser, NODE_FILTER_BLOCK, (parser->token++)->line);

    return (node->right = parse_filters(parser, NULL, true)) && parse_scope(parser, node, "endfilter") ? node : NULL;
}

static struct node *parse_with(struct parser *parser)
{
    struct node *node = node_new(parser, NODE_WITH, (parser->token++)->line);
    struct node_list list = {.end = &node->params};

    while (parser->token->kind != TOKEN_BLOCK_END) {
        struct node *set;
        if (node->params && !token_expect(parser, ','))
            return NULL;
        set = node_new(parser, NODE_SET, parser->token->line);
        if (!(set->left = parse_target_name(parser, false)) || !token_expect(parser, '=') ||
            !(set->right = parse_expression(parser)) || !node_seal(parser, set))
            return NULL;
        node_list_add(&list, set);
    }
    return parse_scope(parser, node, "endwith") ? node : NULL;
}

static bool parse_params(struct parser *parser, struct node *macro)
{
    struct node_list list = {.end = &macro->params};
    bool has_default = false;

    if (!token_expect(parser, '('))
        return false;
    while (!token_is(parser, ')')) {
        struct node *param;
        if (macro->params && !token_expect(parser, ','))
            return false;
        if (!(param = parse_target_name(parser, false)))
            return false;
        param->kind = NODE_PARAM;
        if (token_skip(parser, '=')) {
            has_default = true;
            if (!(param->left = parse_expression(parser)) || !node_seal(parser, param))
                return false;
        } else if (has_default) {
            return parse_fail(parser, "a parameter without default follows one with default");
        }
        node_list_add(&list, param);
    }
    parser->token++;
    return true;
}

static struct node *parse_macro(struct parser *parser)
{
    struct node *node = node_new(parser, NODE_MACRO, (parser->token++)->line);
    struct node *outer = parser->macro;
    int loop_depth = parser->loop_depth;
    bool ok;

    parser->macro = node;
    parser->loop_depth = 0;
    ok = token_expect_name(parser, &node->name) && parse_params(parser, node) && parse_scope(parser, node, "endmacro");
    parser->loop_depth = loop_depth;
    parser->macro = outer;
    return ok ? node : NULL;
}

static struct node *parse_generation(struct parser *parser)
{
    struct node *node = node_new(parser, NODE_GENERATION, (parser->token++)->line);
    int loop_depth = parser->loop_depth;
    bool ok;

    parser->has_generation = true;
    parser->loop_depth = 0;
    ok = parse_scope(parser, node, "endgeneration");
    parser->loop_depth = loop_depth;
    return ok ? node : NULL;
}

static struct node *parse_loop_control(struct parser *parser)
{
    bool is_break = token_is_name(parser, "break");
    struct node *node = node_new(parser, is_break ? NODE_BREAK : NODE_CONTINUE, (parser->token++)->line);

    if (parser->loop_depth == 0) {
        parse_fail(parser, "'%s' stands outside of a loop", is_break ? "break" : "continue");
        return NULL;
    }
    return node;
}

static const struct statement {
    const char *name;
    struct node *(*parse)(struct parser *parser);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"generation", parse_generation},
    {"break", parse_loop_control},
    {"continue", parse_loop_control},
};

static struct node *parse_statement(struct parser *parser)
{
    struct node *node;

    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (token_is_name(parser, statements[i].name)) {
            if (++parser->depth > TREE_HEIGHT_MAX) {
                parse_fail(parser, "blocks are nested too deeply");
                return NULL;
            }
            node = statements[i].parse(parser);
            parser->depth--;
            return node && expect_block_end(parser) ? node : NULL;
        }
    parse_fail(parser, "unknown or unsupported statement %s", token_describe(parser));
    return NULL;
}

static struct node *parse_data(struct parser *parser)
{
    const struct jinja_token *token = parser->token++;
    struct node *node = node_new(parser, token->kind == TOKEN_DATA ? NODE_DATA : NODE_OUTPUT, token->line);

    if (token->kind == TOKEN_DATA) {
        node->name = token->text;
        return node;
    }
    if (!(node->left = parse_tuple(parser, true, false)) || !node_seal(parser, node))
        return NULL;
    if (parser->token->kind != TOKEN_VARIABLE_END) {
        parse_fail(parser, "'}}' is missing before %s", token_describe(parser));
        return NULL;
    }
    parser->token++;
    return node;
}

static bool at_end(const struct parser *parser, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (token_is_name(parser, *ends))
            return true;
    return false;
}

/* Statements and text up to a block that starts with one of `ends` (its name is the current token then), or to
 * the end of the template when ends is NULL. */
static struct node *parse_body(struct parser *parser, const char *const *ends, bool *ok)
{
    struct node *first = NULL, *node;
    struct node_list list = {.end = &first};

    *ok = true;
    while (parser->token->kind != TOKEN_END) {
        if (parser->token->kind == TOKEN_BLOCK_BEGIN) {
            parser->token++;
            if (at_end(parser, ends))
                return first;
            node = parse_statement(parser);
        } else {
            node = parse_data(parser);
        }
        if (!node) {
            *ok = false;
            return NULL;
        }
        node_list_add(&list, node);
    }
    if (ends)
        *ok = parse_fail(parser, "the template ends where '%s' is missing", ends[0]);
    return first;
}

bool jinja_parse(struct arena *arena, struct str source, struct jinja_tree *tree, struct err *err)
{
    struct jinja_tokens tokens;
    struct err local = {0};
    struct parser parser = {.arena = arena, .err = &local};
    bool ok = jinja_lex(arena, source, &tokens, &local);

    if (ok) {
        parser.token = tokens.at;
        tree->body = parse_body(&parser, NULL, &ok);
        tree->has_generation = parser.has_generation;
    }
    if (ok && parser.unknown)
        ok = err_set(&local, ERR_INPUT, "chat template, line %u: there is no %s named '%.*s'", parser.unknown->line,
                     parser.unknown->kind == NODE_FILTER ? "filter" : "test", STR_ARG(parser.unknown->name));
    return ok || err_set(err, local.code, "%s", local.text);
}

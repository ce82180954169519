#include "text/jinja_lex.h"
#include "text/jinja_text.h"

#include <ctype.h>
#include <string.h>

struct lexer {
    struct arena *arena;
    struct str source;
    size_t at;
    uint32_t line;
    bool line_starting; /* the tag before this text ended with a newline */
    struct jinja_tokens *tokens;
    size_t token_cap;
    char open[128]; /* brackets that wait for their partner */
    size_t open_count;
    struct err *err;
};

static bool fail(struct lexer *lexer, const char *what)
{
    return err_set(lexer->err, ERR_INPUT, "chat template, line %u: %s", lexer->line, what);
}

static char peek(const struct lexer *lexer, size_t ahead)
{
    return lexer->at + ahead < lexer->source.len ? lexer->source.at[lexer->at + ahead] : 0;
}

static bool looking_at(const struct lexer *lexer, const char *text)
{
    return str_starts(str_slice(lexer->source, lexer->at, lexer->source.len), str_of(text));
}

static void advance(struct lexer *lexer, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        lexer->line += lexer->source.at[lexer->at + i] == '\n';
    lexer->at += bytes;
}

static void skip_space(struct lexer *lexer)
{
    struct str rest = str_slice(lexer->source, lexer->at, lexer->source.len);

    advance(lexer, rest.len - text_strip_left(rest, STR_NONE).len);
}

static struct jinja_token *emit(struct lexer *lexer, enum jinja_token_kind kind, struct str text)
{
    struct jinja_tokens *tokens = lexer->tokens;
    struct jinja_token *token;

    if (tokens->count == lexer->token_cap) {
        struct jinja_token *more;
        lexer->token_cap = lexer->token_cap ? lexer->token_cap * 2 : 256;
        more = arena_new_array(lexer->arena, struct jinja_token, lexer->token_cap);
        if (tokens->count)
            memcpy(more, tokens->at, tokens->count * sizeof *more);
        tokens->at = more;
    }
    token = &tokens->at[tokens->count++];
    *token = (struct jinja_token){.kind = (uint8_t)kind, .line = lexer->line, .text = text};
    return token;
}

/* Text before a tag, with what the tag's sign and lstrip_blocks take from its end. */
static void emit_data(struct lexer *lexer, struct str text, char sign, bool is_variable)
{
    if (sign == '-') {
        text = text_strip_right(text, STR_NONE);
    } else if (sign != '+' && !is_variable) {
        size_t line_start = text.len;
        while (line_start > 0 && text.at[line_start - 1] != '\n')
            line_start--;
        if ((line_start > 0 || lexer->line_starting) &&
            text_strip_right(str_slice(text, line_start, text.len), STR_NONE).len == 0)
            text.len = line_start;
    }
    if (text.len)
        emit(lexer, TOKEN_DATA, text);
}

/* Behind the closing delimiter: '-' takes all white space, trim_blocks one newline. */
static void end_tag(struct lexer *lexer, char sign, bool trims_newline)
{
    if (sign == '-')
        skip_space(lexer);
    else if (sign != '+' && trims_newline && peek(lexer, 0) == '\n')
        advance(lexer, 1);
    lexer->line_starting = lexer->at > 0 && lexer->source.at[lexer->at - 1] == '\n';
}

static bool lex_comment(struct lexer *lexer)
{
    ptrdiff_t end = str_find(lexer->source, STR("#}"), lexer->at);
    char sign;

    if (end < 0)
        return fail(lexer, "a comment is not closed: '#}' is missing");
    sign = (size_t)end > lexer->at ? lexer->source.at[end - 1] : 0;
    advance(lexer, (size_t)end + 2 - lexer->at);
    end_tag(lexer, sign == '-' || sign == '+' ? sign : 0, true);
    return true;
}

/* Matches `name` and the end of its block from here without moving; returns the bytes up to behind "%}", 0 when it
 * is another block. *sign is the one before "%}". */
static size_t match_block(const struct lexer *lexer, size_t from, const char *name, char *sign)
{
    struct str rest = str_slice(lexer->source, from, lexer->source.len);
    size_t all = rest.len;

    rest = text_strip_left(rest, STR_NONE);
    if (!str_starts(rest, str_of(name)))
        return 0;
    rest = text_strip_left(str_slice(rest, strlen(name), rest.len), STR_NONE);
    *sign = 0;
    if (rest.len && (rest.at[0] == '-' || rest.at[0] == '+')) {
        *sign = rest.at[0];
        rest = str_slice(rest, 1, rest.len);
    }
    return str_starts(rest, STR("%}")) ? all - rest.len + 2 : 0;
}

/* From behind the "%}" of {% raw %} to behind {% endraw %}. */
static bool lex_raw(struct lexer *lexer)
{
    size_t from = lexer->at;
    ptrdiff_t tag;

    while ((tag = str_find(lexer->source, STR("{%"), from)) >= 0) {
        size_t inside = (size_t)tag + 2, len;
        char open = inside < lexer->source.len ? lexer->source.at[inside] : 0, close;
        open = open == '-' || open == '+' ? open : 0;
        len = match_block(lexer, inside + (open != 0), "endraw", &close);
        if (len) {
            emit_data(lexer, str_slice(lexer->source, lexer->at, (size_t)tag), open, false);
            advance(lexer, inside + (open != 0) + len - lexer->at);
            end_tag(lexer, close, true);
            return true;
        }
        from = inside;
    }
    return fail(lexer, "{% raw %} is not closed");
}

static bool lex_string(struct lexer *lexer)
{
    char quote = peek(lexer, 0);
    size_t end = lexer->at + 1;
    struct jinja_token *token;
    const char *why = NULL;

    while (end < lexer->source.len && lexer->source.at[end] != quote)
        end += lexer->source.at[end] == '\\' ? 2 : 1;
    if (end >= lexer->source.len)
        return fail(lexer, "a string is not closed");
    token = emit(lexer, TOKEN_STRING, str_slice(lexer->source, lexer->at + 1, end));
    if (!text_unescape(lexer->arena, token->text, &token->text, &why))
        return fail(lexer, why);
    advance(lexer, end + 1 - lexer->at);
    return true;
}

/* Digits with single underscores between them, from `at`. */
static size_t digits_end(struct str source, size_t at)
{
    while (at < source.len && (isdigit((unsigned char)source.at[at]) || (source.at[at] == '_' && at + 1 < source.len &&
                                                                         isdigit((unsigned char)source.at[at + 1]))))
        at++;
    return at;
}

static size_t fraction_end(struct str source, size_t at)
{
    if (at + 1 < source.len && source.at[at] == '.' && isdigit((unsigned char)source.at[at + 1]))
        at = digits_end(source, at + 1);
    if (at < source.len && (source.at[at] | 32) == 'e') {
        size_t exponent = at + 1;
        if (exponent < source.len && (source.at[exponent] == '+' || source.at[exponent] == '-'))
            exponent++;
        if (exponent < source.len && isdigit((unsigned char)source.at[exponent]))
            at = digits_end(source, exponent);
    }
    return at;
}

static bool based_integer(struct lexer *lexer)
{
    int base = (peek(lexer, 1) | 32) == 'x' ? 16 : (peek(lexer, 1) | 32) == 'o' ? 8 : 2;
    size_t end = lexer->at + 2;
    int64_t value = 0;

    for (; end < lexer->source.len; end++) {
        int c = lexer->source.at[end] | 32, digit = isdigit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (lexer->source.at[end] == '_')
            continue;
        if (digit >= base)
            break;
        if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value))
            return fail(lexer, "an integer does not fit 64 bits");
    }
    emit(lexer, TOKEN_INTEGER, str_slice(lexer->source, lexer->at, end))->integer = value;
    lexer->at = end;
    return true;
}

static bool lex_number(struct lexer *lexer)
{
    size_t end, len = 0;
    bool is_float;
    char plain[64];
    struct jinja_token *token;

    if (peek(lexer, 0) == '0' && peek(lexer, 1) && strchr("xXoObB", peek(lexer, 1)))
        return based_integer(lexer);
    end = digits_end(lexer->source, lexer->at);
    is_float = lexer->at == 0 || lexer->source.at[lexer->at - 1] != '.';
    if (is_float) {
        size_t integer_end = end;
        end = fraction_end(lexer->source, end);
        is_float = end > integer_end;
    }
    for (size_t i = lexer->at; i < end && len < sizeof plain; i++)
        if (lexer->source.at[i] != '_')
            plain[len++] = lexer->source.at[i];
    token = emit(lexer, is_float ? TOKEN_FLOAT : TOKEN_INTEGER, str_slice(lexer->source, lexer->at, end));
    if (len == sizeof plain || (is_float ? !str_to_double((struct str){plain, len}, &token->number)
                                         : !str_to_i64((struct str){plain, len}, &token->integer)))
        return fail(lexer, "a number does not fit 64 bits");
    lexer->at = end;
    return true;
}

static bool balance(struct lexer *lexer, char c)
{
    char partner = c == ')' ? '(' : c == ']' ? '[' : c == '}' ? '{' : 0;

    if (strchr("([{", c)) {
        if (lexer->open_count == sizeof lexer->open)
            return fail(lexer, "brackets are nested too deeply");
        lexer->open[lexer->open_count++] = c;
    } else if (partner) {
        if (!lexer->open_count || lexer->open[lexer->open_count - 1] != partner)
            return fail(lexer, "a closing bracket has no partner");
        lexer->open_count--;
    }
    return true;
}

static bool lex_operator(struct lexer *lexer)
{
    static const char two[][3] = {"**", "//", "==", "!=", ">=", "<="};
    char c = peek(lexer, 0);

    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (looking_at(lexer, two[i])) {
            emit(lexer, TOKEN_OPERATOR, str_slice(lexer->source, lexer->at, lexer->at + 2))->op =
                OPERATOR2(two[i][0], two[i][1]);
            lexer->at += 2;
            return true;
        }
    if (!c || !strchr("+-*/%~()[]{}<>=.:|,;", c))
        return fail(lexer, "unexpected character in a tag");
    if (!balance(lexer, c))
        return false;
    emit(lexer, TOKEN_OPERATOR, str_slice(lexer->source, lexer->at, lexer->at + 1))->op = (uint8_t)c;
    lexer->at++;
    return true;
}

static bool is_name_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static bool lex_name(struct lexer *lexer)
{
    size_t end = lexer->at;

    while (end < lexer->source.len && is_name_byte(lexer->source.at[end]))
        end++;
    emit(lexer, TOKEN_NAME, str_slice(lexer->source, lexer->at, end));
    lexer->at = end;
    return true;
}

/* True when the tag ends here: then it is consumed with its sign. */
static bool at_tag_end(struct lexer *lexer, const char *end, bool is_block)
{
    char sign = peek(lexer, 0);
    size_t skip = sign == '-' || (sign == '+' && is_block);

    if (lexer->open_count || peek(lexer, skip) != end[0] || peek(lexer, skip + 1) != end[1])
        return false;
    emit(lexer, is_block ? TOKEN_BLOCK_END : TOKEN_VARIABLE_END, STR_NONE);
    lexer->at += skip + 2;
    end_tag(lexer, skip ? sign : 0, is_block);
    return true;
}

static bool lex_code(struct lexer *lexer, bool is_block)
{
    emit(lexer, is_block ? TOKEN_BLOCK_BEGIN : TOKEN_VARIABLE_BEGIN, STR_NONE);
    lexer->open_count = 0;
    for (;;) {
        bool ok;
        char c;
        skip_space(lexer);
        if (lexer->at >= lexer->source.len)
            return fail(lexer, is_block ? "a block is not closed: '%}' is missing" : "'}}' is missing");
        if (at_tag_end(lexer, is_block ? "%}" : "}}", is_block))
            return true;
        c = peek(lexer, 0);
        if (isdigit((unsigned char)c))
            ok = lex_number(lexer);
        else if (is_name_byte(c))
            ok = lex_name(lexer);
        else if (c == '\'' || c == '"')
            ok = lex_string(lexer);
        else
            ok = lex_operator(lexer);
        if (!ok)
            return false;
    }
}

/* From text up to and through one tag. */
static bool lex_tag(struct lexer *lexer, size_t tag)
{
    char kind = lexer->source.at[tag + 1], sign, close = 0;
    size_t raw;

    sign = tag + 2 < lexer->source.len ? lexer->source.at[tag + 2] : 0;
    sign = sign == '-' || sign == '+' ? sign : 0;
    emit_data(lexer, str_slice(lexer->source, lexer->at, tag), sign, kind == '{');
    advance(lexer, tag + 2 + (sign != 0) - lexer->at);
    lexer->line_starting = false;
    if (kind == '#')
        return lex_comment(lexer);
    raw = kind == '%' ? match_block(lexer, lexer->at, "raw", &close) : 0;
    if (!raw || close == '+')
        return lex_code(lexer, kind == '%');
    advance(lexer, raw);
    end_tag(lexer, close, false);
    return lex_raw(lexer);
}

static size_t find_tag(struct str source, size_t from)
{
    for (; from + 1 < source.len; from++)
        if (source.at[from] == '{' && strchr("{%#", source.at[from + 1]) && source.at[from + 1])
            return from;
    return source.len;
}

static struct str normalise_newlines(struct arena *arena, struct str source)
{
    char *copy;
    size_t len = 0;

    if (source.len && memchr(source.at, '\r', source.len)) {
        copy = arena_alloc(arena, source.len);
        for (size_t i = 0; i < source.len; i++) {
            bool is_return = source.at[i] == '\r';
            copy[len++] = is_return ? '\n' : source.at[i];
            i += is_return && i + 1 < source.len && source.at[i + 1] == '\n';
        }
        source = (struct str){copy, len};
    }
    if (str_ends(source, STR("\n")))
        source.len--;
    return source;
}

bool jinja_lex(struct arena *arena, struct str source, struct jinja_tokens *tokens, struct err *err)
{
    struct lexer lexer = {.arena = arena, .line = 1, .line_starting = true, .tokens = tokens, .err = err};

    lexer.source = normalise_newlines(arena, source);
    *tokens = (struct jinja_tokens){0};
    while (lexer.at < lexer.source.len) {
        size_t tag = find_tag(lexer.source, lexer.at);
        if (tag == lexer.source.len) {
            emit(&lexer, TOKEN_DATA, str_slice(lexer.source, lexer.at, lexer.source.len));
            break;
        }
        if (!lex_tag(&lexer, tag))
            return false;
    }
    emit(&lexer, TOKEN_END, STR_NONE);
    return true;
}

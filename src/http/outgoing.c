#include "http/outgoing.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>

enum { URL_BYTES_MAX = 8192, HOST_BYTES_MAX = 253, LABEL_BYTES_MAX = 63 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* --- parsing --- */

static bool refuse(struct err *err, const char *why)
{
    return err_set(err, ERR_INPUT, "not a URL that is taken: %s", why);
}

/* What no part of a URL holds unencoded; a backslash is a slash to some readers. */
static bool is_url_text(struct str text)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.at[i] <= 0x20 || text.at[i] >= 0x7f || strchr("\\\"<>{}|^`#", text.at[i]))
            return false;
    return true;
}

static bool take_scheme(struct str *text, bool *is_https)
{
    static const struct str schemes[] = {{"http://", 7}, {"https://", 8}};

    for (size_t i = 0; i < 2; i++) {
        size_t same = 0;

        while (same < schemes[i].len && same < text->len && lower(text->at[same]) == schemes[i].at[same])
            same++;
        if (same == schemes[i].len) {
            *is_https = i == 1;
            *text = str_slice(*text, same, text->len);
            return true;
        }
    }
    return false;
}

/* Labels of letters, digits, hyphens and underscores; whether the last could be read as a number. */
static bool check_labels(struct str host, bool *is_last_number)
{
    size_t start = 0;

    for (size_t i = 0; i <= host.len; i++) {
        if (i < host.len && host.at[i] != '.') {
            char c = lower(host.at[i]);
            if (!(is_digit(c) || (c >= 'a' && c <= 'z') || c == '-' || c == '_'))
                return false;
            continue;
        }
        if (i == start || i - start > LABEL_BYTES_MAX || host.at[start] == '-' || host.at[i - 1] == '-')
            return false;
        *is_last_number = is_digit(host.at[start]);
        for (size_t k = start; k < i; k++)
            *is_last_number &= hex_value(host.at[k]) >= 0 || (k == start + 1 && lower(host.at[k]) == 'x');
        start = i + 1;
    }
    return host.len <= HOST_BYTES_MAX;
}

/* A name, or an address as inet_ntop writes it: of all spellings of an IPv4 address, readers agree on that one alone.
 */
static bool read_host(struct arena *arena, struct str text, struct outgoing_url *url, struct err *err)
{
    char *host = str_copy(arena, text), canonical[INET_ADDRSTRLEN];
    bool is_number = false;
    struct in_addr v4;

    for (char *c = host; *c; c++)
        *c = lower(*c);
    url->host = host;
    if (!check_labels(text, &is_number))
        return refuse(err, "its host is neither a name nor an address");
    if (!is_number)
        return true;
    url->is_address = true;
    if (inet_pton(AF_INET, host, &v4) != 1 || !inet_ntop(AF_INET, &v4, canonical, sizeof canonical) ||
        strcmp(canonical, host) != 0)
        return refuse(err, "its host is an odd spelling of an address");
    return true;
}

static bool read_bracketed(struct arena *arena, struct str text, struct outgoing_url *url, struct err *err)
{
    struct in6_addr v6;
    char canonical[INET6_ADDRSTRLEN];

    url->is_address = true;
    if (text.len >= sizeof canonical || inet_pton(AF_INET6, str_copy(arena, text), &v6) != 1 ||
        !inet_ntop(AF_INET6, &v6, canonical, sizeof canonical))
        return refuse(err, "its host is not an IPv6 address");
    url->host = str_copy(arena, str_of(canonical));
    return true;
}

static bool read_port(struct str text, struct outgoing_url *url, struct err *err)
{
    int64_t port = 0;

    for (size_t i = 0; i < text.len; i++)
        if (!is_digit(text.at[i]))
            return refuse(err, "its port is not a number");
    if (text.len == 0 || text.len > 5 || !str_to_i64(text, &port) || port < 1 || port > 65535)
        return refuse(err, "its port is not a number from 1 to 65535");
    url->port = (int)port;
    return true;
}

static bool read_authority(struct arena *arena, struct str text, struct outgoing_url *url, struct err *err)
{
    ptrdiff_t end = text.len && text.at[0] == '[' ? str_find(text, STR("]"), 0) : -1;
    size_t host_end = 0;

    if (text.len && text.at[0] == '[') {
        if (end < 0)
            return refuse(err, "a bracket is not closed");
        if (!read_bracketed(arena, str_slice(text, 1, (size_t)end), url, err))
            return false;
        host_end = (size_t)end + 1;
    } else {
        while (host_end < text.len && text.at[host_end] != ':')
            host_end++;
        if (!read_host(arena, str_slice(text, 0, host_end), url, err))
            return false;
    }
    if (host_end == text.len)
        return true;
    if (text.at[host_end] != ':')
        return refuse(err, "something stands behind its host");
    return read_port(str_slice(text, host_end + 1, text.len), url, err);
}

bool outgoing_url_parse(struct arena *arena, struct str text, struct outgoing_url *url, struct err *err)
{
    size_t end = 0;

    *url = (struct outgoing_url){0};
    if (text.len > URL_BYTES_MAX)
        return refuse(err, "it is longer than 8192 bytes");
    if (!is_url_text(text))
        return refuse(err, "it holds a character that URLs do not have, or a fragment");
    if (!take_scheme(&text, &url->is_https))
        return refuse(err, "it begins neither with https:// nor with http://");
    url->port = url->is_https ? 443 : 80;
    while (end < text.len && text.at[end] != '/' && text.at[end] != '?')
        end++;
    if (memchr(text.at, '@', end))
        return refuse(err, "it names a user: give credentials by their own fields");
    if (!read_authority(arena, str_slice(text, 0, end), url, err))
        return false;
    url->rest = end < text.len && text.at[end] == '/'
                    ? str_copy(arena, str_slice(text, end, text.len))
                    : arena_printf(arena, "/%.*s", STR_ARG(str_slice(text, end, text.len)));
    return true;
}

bool outgoing_is_same(const struct outgoing_url *a, const struct outgoing_url *b)
{
    return a->is_https == b->is_https && a->port == b->port && strcmp(a->host, b->host) == 0;
}

bool outgoing_follow(struct arena *arena, const struct outgoing_url *from, struct str location,
                     struct outgoing_url *url, struct err *err)
{
    struct str whole = location;

    if (str_starts(location, STR("//")))
        whole = str_of(arena_printf(arena, "%s:%.*s", from->is_https ? "https" : "http", STR_ARG(location)));
    else if (str_starts(location, STR("/")))
        whole = str_of(arena_printf(arena, "%s%.*s", outgoing_url_origin(arena, from), STR_ARG(location)));
    if (!outgoing_url_parse(arena, whole, url, err))
        return false;
    if (from->is_https && !url->is_https)
        return refuse(err, "it leads from https to http");
    return true;
}

char *outgoing_url_origin(struct arena *arena, const struct outgoing_url *url)
{
    const bool is_v6 = strchr(url->host, ':') != NULL;
    const char *host = is_v6 ? arena_printf(arena, "[%s]", url->host) : url->host;

    if (url->port == (url->is_https ? 443 : 80))
        return arena_printf(arena, "%s://%s", url->is_https ? "https" : "http", host);
    return arena_printf(arena, "%s://%s:%d", url->is_https ? "https" : "http", host, url->port);
}

/* --- the policy --- */

static bool read_rule(struct arena *arena, struct str word, struct outgoing_rule *rule, struct err *err)
{
    *rule = (struct outgoing_rule){.is_any = str_is(word, "https://anywhere")};
    if (rule->is_any)
        return true;
    rule->is_internal = str_starts(word, STR("internal:"));
    if (rule->is_internal)
        word = str_slice(word, 9, word.len);
    if (!outgoing_url_parse(arena, word, &rule->url, err))
        return err_prefix(err, "%.*s", STR_ARG(str_clip(word, 200)));
    if (strcmp(rule->url.rest, "/") != 0)
        return err_set(err, ERR_INPUT, "%.*s: an origin has no path", STR_ARG(str_clip(word, 200)));
    return true;
}

bool outgoing_policy_parse(struct arena *arena, const char *text, struct outgoing_policy *policy, struct err *err)
{
    static const char *const between = ", \t\r\n";

    *policy = (struct outgoing_policy){0};
    for (text = text ? text : ""; *(text += strspn(text, between));) {
        struct str word = {text, strcspn(text, between)};

        if (policy->count == OUTGOING_RULES_MAX)
            return err_set(err, ERR_LIMIT, "more than %d origins", OUTGOING_RULES_MAX);
        if (!read_rule(arena, word, &policy->rules[policy->count++], err))
            return false;
        text += word.len;
    }
    return true;
}

/* Names that mean something to this machine or its network alone; a public name has a dot. */
static bool is_local_name(const char *host)
{
    static const char *const suffixes[] = {".localhost", ".localdomain", ".local", ".internal", ".svc",  ".lan",
                                           ".home.arpa", ".intranet",    ".corp",  ".private",  ".onion"};

    if (!strchr(host, '.'))
        return true;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (str_ends(str_of(host), str_of(suffixes[i])))
            return true;
    return false;
}

static bool address_of(const char *host, struct sockaddr_storage *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;

    memset(address, 0, sizeof *address);
    address->ss_family = strchr(host, ':') ? AF_INET6 : AF_INET;
    return inet_pton(address->ss_family, host,
                     address->ss_family == AF_INET ? (void *)&v4->sin_addr : (void *)&v6->sin6_addr) == 1;
}

static bool is_public(const struct outgoing_url *url)
{
    struct sockaddr_storage address;

    if (!url->is_address)
        return !is_local_name(url->host);
    return address_of(url->host, &address) && outgoing_address_is_global((struct sockaddr *)&address);
}

const struct outgoing_rule *outgoing_find_rule(const struct outgoing_policy *policy, const struct outgoing_url *url,
                                               struct err *err)
{
    for (size_t i = 0; i < policy->count; i++) {
        const struct outgoing_rule *rule = &policy->rules[i];

        if ((rule->is_any ? url->is_https : outgoing_is_same(&rule->url, url)) && (rule->is_internal || is_public(url)))
            return rule;
    }
    err_set(err, ERR_AUTH, "this server may not reach %s: its operator lists origins with --outgoing", url->host);
    return NULL;
}

/* --- addresses --- */

struct range {
    uint32_t first;
    int bits;
};

/* IANA's special-purpose registry, and a cloud's host agent that answers on a public-looking address. */
static bool is_global_v4(uint32_t address)
{
    static const struct range special[] = {
        {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16},
        {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16},
        {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 3},  {0xa83f8110, 32},
    };

    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (((address ^ special[i].first) >> (32 - special[i].bits)) == 0)
            return false;
    return true;
}

/* 2000::/3 without its special ranges: Teredo and the like (2001::/23), documentation, 6to4. Mapped, translated and
 * NAT64 forms are outside. */
static bool is_global_v6(const uint8_t a[16])
{
    const uint32_t first = (uint32_t)a[0] << 24 | (uint32_t)a[1] << 16 | (uint32_t)a[2] << 8 | a[3];

    return first >> 29 == 1 && first >> 9 != 0x20010000 >> 9 && first != 0x20010db8 && first >> 16 != 0x2002 &&
           first >> 12 != 0x3fff0000 >> 12;
}

bool outgoing_address_is_global(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return is_global_v4(ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr));
    return address->sa_family == AF_INET6 && is_global_v6(((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr);
}

bool outgoing_rule_allows(const struct outgoing_rule *rule, const struct sockaddr *address)
{
    return (rule->is_internal && (address->sa_family == AF_INET || address->sa_family == AF_INET6)) ||
           outgoing_address_is_global(address);
}

bool outgoing_resolve(const struct outgoing_rule *rule, const struct outgoing_url *url, struct strbuf *pin,
                      struct err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *list = NULL;
    char text[INET6_ADDRSTRLEN];
    bool ok = true;

    if (url->is_address)
        return true;
    if (getaddrinfo(url->host, NULL, &hints, &list) != 0 || !list)
        return err_set(err, ERR_IO, "the name %s has no address", url->host);
    strbuf_printf(pin, "%s:%d", url->host, url->port);
    for (struct addrinfo *each = list; ok && each; each = each->ai_next) {
        ok = outgoing_rule_allows(rule, each->ai_addr) &&
             getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0;
        strbuf_printf(pin, strchr(text, ':') ? "%c[%s]" : "%c%s", each == list ? ':' : ',', text);
    }
    freeaddrinfo(list);
    return ok || err_set(err, ERR_AUTH, "%s has an address that is not public", url->host);
}

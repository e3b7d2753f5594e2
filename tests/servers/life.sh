#!/bin/busybox sh
# An MCP server over stdio that keeps state and misbehaves on demand, so small that hundreds of it fit on a host.
# It is the whole content of an image, beside busybox.

TOOLS=
for name in count die hang flood flood_stderr oversize litter; do
    TOOLS="$TOOLS,{\"name\":\"$name\",\"inputSchema\":{\"type\":\"object\"}}"
done
count=0
echo "life is ready" >&2

while IFS= read -r line; do
    case $line in
        *'"id":'*) ;;
        *) continue ;;
    esac
    id=${line#*\"id\":}
    id=${id%%[,\}]*}
    text=done
    case $line in
        *'"method":"initialize"'*)
            result='{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"life","version":"1"}}'
            ;;
        *'"method":"ping"'*) result='{}' ;;
        *'"method":"tools/list"'*) result="{\"tools\":[${TOOLS#,}]}" ;;
        *'"method":"tools/call"'*)
            case $line in
                *'"name":"count"'*)
                    count=$((count + 1))
                    text=$count
                    ;;
                *'"name":"die"'*)
                    echo "these are my last words" >&2
                    exit 3
                    ;;
                # Nothing is answered any more, pings included.
                *'"name":"hang"'*) /bin/busybox sleep 100000 ;;
                # Children of children that have gone: whoever they are left to has to reap them.
                *'"name":"litter"'*)
                    for i in 1 2 3 4 5 6 7 8 9 10; do
                        (/bin/busybox true & /bin/busybox true &)
                    done
                    ;;
                *'"name":"flood"'*)
                    /bin/busybox yes '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}'
                    ;;
                *'"name":"flood_stderr"'*) /bin/busybox yes 'and another line of it, and another line of it' >&2 ;;
                *'"name":"oversize"'*) /bin/busybox tr '\0' x </dev/zero ;;
            esac
            result="{\"content\":[{\"type\":\"text\",\"text\":\"$text\"}]}"
            ;;
        *)
            echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"no such method\"}}"
            continue
            ;;
    esac
    echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$result}"
done

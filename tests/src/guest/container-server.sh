# An MCP server with one tool, for an image that has nothing but busybox.
opening='{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"tiny","version":"1"}}}'
heard=
# Starts another server, says $1 to it and tells whether it answered.
another() {
    answer=$(echo "$1" | sh /server.sh "$2")
    case "$answer" in
    *'"protocolVersion"'*) text='it answered' ;;
    *) text='it said nothing' ;;
    esac
}
while read -r line; do
    text='hello from the cage'
    id=$(echo "$line" | busybox sed 's/.*"id":\([0-9]*\).*/\1/')
    case "$line" in
    *'"nested"'*) another "$opening" nested ;;
    *'"relayed"'*) another "$heard" relayed ;;
    *'"initialize"'*) heard=$line ;;
    # What it may use: more memory than that, and more processes.
    *'"hog"'*) if busybox dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; then text='nothing stopped it'; else text="ended with $?"; fi ;;
    *'"fork"'*)
        # Nothing but built-in commands once there are too many.
        text='nothing stopped it'
        (
            trap 'kill $all' EXIT
            all=
            while [ ${#all} -lt 4000 ]; do
                busybox sleep 30 &
                all="$all $!"
            done
        ) 2>/dev/null || text='it could not'
        ;;
    *'"variable"'*) text="A is ${A-unset}" ;;
    esac
    case "$line" in
    *'"initialize"'*) result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}' ;;
    *'"tools/list"'*) result='{"tools":[{"name":"hello","description":"say hello","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*) result='{"content":[{"type":"text","text":"'"$text"'"}]}' ;;
    *) continue ;;
    esac
    echo '{"jsonrpc":"2.0","id":'"$id"',"result":'"$result"'}'
done

#!/bin/sh
# strict: the OCI Runtime Command Line Interface 1.0.1 and nothing else, over a runtime that has more. Whatever the
# document lacks (a global option, a command, an option, a signal by number, an argument too many) ends with status 64,
# as EX_USAGE of sysexits(3), and one line on stderr. What is left goes to the runtime: runc, or that of --over.
#
# Two things the document does not have: --over, with which labkit names the runtime, and --version, for which labkit
# asks. And one that it has is put in other words, as runtimes do not take it: `kill --signal TERM ID`.

over=runc
refuse() {
  echo "strict: the command line interface 1.0.1 has no $1" >&2
  exit 64
}
case ${1-} in --over=?*) over=${1#--over=} && shift ;; esac
case ${1-} in
  --version)
    echo "strict version 1.0 over $("$over" --version | head -n 1)"
    exit
    ;;
  create | start | state | kill | delete) command=$1 && shift ;;
  -*) refuse "global option $1" ;;
  '') refuse "call without a command" ;;
  *) refuse "command $1" ;;
esac

# The words are gone through once, and those for the runtime put behind the others.
signal='' ids=0 left=$#
while [ "$left" -gt 0 ]; do
  word=$1 value='' && shift && left=$((left - 1))
  case $ids$word in [1-9]-*) refuse "option after the ID" ;; esac
  case $command/$word in
    create/--bundle | create/--pid-file | create/--console-socket | kill/--signal)
      [ "$left" -gt 0 ] || refuse "$word without a value"
      value=$1 && shift && left=$((left - 1))
      ;;
    create/--bundle=* | create/--pid-file=* | create/--console-socket=* | kill/--signal=*)
      value=${word#*=} word=${word%%=*}
      ;;
    */-*) refuse "option $word of $command" ;;
    *)
      ids=$((ids + 1)) && set -- "$@" "$word"
      continue
      ;;
  esac
  case $word in
    --signal)
      case $value in
        TERM | KILL | SIGTERM | SIGKILL) signal=${value#SIG} ;;
        *) refuse "signal $value" ;;
      esac
      ;;
    --console-socket)
      case $value in
        *[!0-9]* | '') refuse "--console-socket by a path" ;;
      esac
      echo "strict: $over takes no descriptor for --console-socket" >&2
      exit 64
      ;;
    *) set -- "$@" "$word" "$value" ;;
  esac
done
[ "$ids" -eq 1 ] || refuse "$command with $ids arguments, it takes an ID"
case $command in kill) set -- "$@" "${signal:-TERM}" ;; esac
exec "$over" "$command" "$@"

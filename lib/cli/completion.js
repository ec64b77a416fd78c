'use strict';

// The subcommand `completion`: prints a script with which a shell completes commands and options.

const { FLAGS } = require('../flags');
const { SUCCESS, UsageError } = require('./exit');

const describe = `Usage: wsmsgbroker completion <bash|zsh>

Prints a script that completes commands and options. For bash, in ~/.bashrc:

  eval "$(wsmsgbroker completion bash)"
`;

/** The options of a subcommand, with dashes. */
function optionsOf(name) {
  const options =
    name === 'serve' || name === 'check'
      ? [
          'config',
          ...FLAGS.map(({ name: flag }) => flag),
          'drain',
          'drain-delay',
          'log',
          'log-level',
        ]
      : Object.keys(require(`./${name}`).options);
  return [...options, 'help'].map((option) => `--${option}`).join(' ');
}

function script() {
  const names = [
    'serve',
    'check',
    'send',
    'request',
    'listen',
    'bench',
    'top',
    'store',
    'completion',
  ];
  const cases = names.map((name) => `    ${name}) words="${optionsOf(name)}" ;;`);
  return `_wsmsgbroker() {
  local words="${names.join(' ')} --help --version"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
    *) words="" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _wsmsgbroker wsmsgbroker
`;
}

async function run(_, [shell, ...rest]) {
  if (!['bash', 'zsh'].includes(shell) || rest.length > 0) {
    throw new UsageError('expected bash or zsh');
  }
  const prefix = shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : '';
  process.stdout.write(`${prefix}${script()}`);
  return SUCCESS;
}

module.exports = { options: {}, describe, run };

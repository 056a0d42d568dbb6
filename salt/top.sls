# Every minion, in the environment that is applied: `saltenv`, or base.
{{ (opts.get('saltenv') or 'base') | json }}:
  '*':
    - ispmail

# Sync the modules and the library whenever one of their files has changed; Salt itself syncs them only in a highstate.
# The check costs nothing if nothing changed. bin/stamp writes the part behind the +.
{%- set wanted = '0.1.0+2fd0fc689a8a' %}
{%- if 'ispmail.version' not in salt or salt['ispmail.version']() != wanted %}

{#- Not the state saltutil.sync_all: it takes no environment, and would sync from those of the top file only. #}
The modules for Postfix maps are synced:
  module.run:
    - saltutil.sync_all:
      - saltenv: {{ saltenv | json }}
      - refresh: True
    - reload_modules: True
    - order: 1
{%- endif %}

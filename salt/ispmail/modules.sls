# Sync the modules and the library whenever one of their files has changed; Salt itself syncs them only in a highstate.
# The check costs nothing if nothing changed. bin/stamp writes the part behind the +.
{%- set wanted = '0.1.0+10453e21f5a0' %}
{%- if 'ispmail.version' not in salt or salt['ispmail.version']() != wanted %}

The modules for Postfix maps are synced:
  saltutil.sync_all:
    - refresh: True
    - reload_modules: True
    - order: 1
{%- endif %}

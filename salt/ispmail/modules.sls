# Sync the modules and the library whenever one of their files has changed; Salt itself syncs them only in a highstate.
# The check costs nothing if nothing changed. bin/stamp writes the part behind the +.
{%- set wanted = '0.2.0+073a99d095e3' %}
{%- if 'ispmail.version' not in salt or salt['ispmail.version']() != wanted %}

{#- Salt deletes what the environments that it syncs do not have. Without any named, they are those of the top file; of
    those named, the last one's files win. (The state saltutil.sync_all takes none.) #}
The modules for Postfix maps are synced:
  module.run:
    - saltutil.sync_all:
      {%- if saltenv != 'base' %}
      - saltenv: {{ ['base', saltenv] | json }}
      {%- endif %}
      - refresh: True
    - reload_modules: True
    - order: 1
{%- endif %}

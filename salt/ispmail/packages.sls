# Install Postfix, a package for each table type in use, and PyMySQL for the Python that runs Salt.
{%- set ispmail = salt['pillar.get']('ispmail') or {} %}
{%- if ispmail is mapping and ispmail.get('packages', True) %}
{%- set types = ['mysql'] %}
{%- set maps = ispmail.get('maps') %}
{%- for map in (maps.values() if maps is mapping else []) if map is mapping and map.get('type') in ('mysql', 'pgsql', 'sqlite') %}
{%- do types.append(map['type']) %}
{%- endfor %}
{%- set system_python = grains['pythonexecutable'].startswith('/usr/bin/') %}
{%- set packages = ['postfix'] %}
{%- for type in types | unique %}
{%- do packages.append('postfix-' ~ type) %}
{%- endfor %}
{%- if system_python %}
{%- do packages.append('python3-pymysql') %}
{%- endif %}

Postfix and its table types are installed:
  pkg.installed:
    - pkgs: {{ packages | json }}
    - reload_modules: {{ system_python | json }}
    - require_in:
      - postfix_map: Postfix asks the maps that pillar names
{%- if not system_python %}
{%- set found = [] %}
{%- for path in grains['pythonpath'] if salt['file.directory_exists'](path ~ '/pymysql') %}
{%- do found.append(path) %}
{%- endfor %}
{%- if not found %}

PyMySQL is installed for Salt's Python:
  pip.installed:
    - name: PyMySQL>=1.1,<1.3
    - bin_env: {{ grains['pythonexecutable'] | json }}
    - reload_modules: True
{%- endif %}
{%- endif %}
{%- endif %}

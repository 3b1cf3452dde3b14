using 'main.bicep'

param name = 'forecasts'
param warehouse = 'synapse'
param privateEndpoints = false
param machineLearning = true
param kubernetes = true
param administratorsId = '00000000-0000-0000-0000-000000000000'
param administratorsName = 'GROUP'
